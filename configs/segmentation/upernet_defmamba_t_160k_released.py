_base_ = './upernet_defmamba_t_160k.py'
model = dict(backbone=dict(formulation='released'))
