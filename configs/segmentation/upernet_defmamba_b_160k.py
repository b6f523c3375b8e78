_base_ = './upernet_defmamba_s_160k.py'
model = dict(backbone=dict(arch='base', drop_path_rate=0.4))
