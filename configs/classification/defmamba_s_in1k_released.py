_base_ = 'defmamba_t_in1k_released.py'

model = dict(backbone=dict(arch='small'), head=dict(in_channels=768))
