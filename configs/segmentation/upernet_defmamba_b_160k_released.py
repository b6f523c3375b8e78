_base_ = './upernet_defmamba_b_160k.py'
model = dict(backbone=dict(formulation='released'))
