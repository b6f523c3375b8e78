# A small UperNet for digit scenes. It does not learn yet: it tells strokes from background, not digits apart.
_base_ = [
    '../_base_/segmentation/upernet_defmamba.py',
    '../_base_/segmentation/digit_scenes.py',
    '../_base_/segmentation/schedule_160k.py',
    'mmseg::_base_/default_runtime.py',
]
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=(16, 32, 64, 128), depths=(1, 1, 1, 1)),
        pretrain_img_size=128,
        drop_path_rate=0.0,
    ),
    decode_head=dict(in_channels=[16, 32, 64, 128], channels=48, num_classes=11, norm_cfg=norm_cfg, dropout_ratio=0.0),
    auxiliary_head=dict(in_channels=64, channels=32, num_classes=11, norm_cfg=norm_cfg, dropout_ratio=0.0),
)
optim_wrapper = dict(optimizer=dict(lr=5e-3), clip_grad=dict(max_norm=5.0))
max_iters = 1200
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=100, end=max_iters),
]
default_hooks = dict(checkpoint=dict(interval=max_iters // 2))
