_base_ = './mask_rcnn_defmamba_s_1x.py'
model = dict(backbone=dict(arch='tiny', drop_path_rate=0.1), neck=dict(in_channels=[48, 96, 192, 384]))
