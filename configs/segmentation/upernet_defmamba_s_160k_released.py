_base_ = './upernet_defmamba_s_160k.py'
model = dict(backbone=dict(formulation='released'))
