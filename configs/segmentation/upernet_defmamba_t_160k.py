_base_ = './upernet_defmamba_s_160k.py'
model = dict(
    backbone=dict(arch='tiny', drop_path_rate=0.1),
    decode_head=dict(in_channels=[48, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192),
)
