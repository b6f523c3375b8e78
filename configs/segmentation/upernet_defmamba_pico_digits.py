# A small UperNet for digit scenes, for a CPU.
_base_ = [
    '../_base_/segmentation/upernet_defmamba.py',
    '../_base_/segmentation/digit_scenes.py',
    '../_base_/segmentation/schedule_160k.py',
    '../_base_/segmentation/runtime.py',
]
norm_cfg = dict(type='BN', requires_grad=True)
# mmseg draws the classifiers of its heads from N(0, 0.01). All digits then start with the same weights but for 0.01, so
# that hardly any gradient tells them apart: 1000 iterations later stroke and background are found, no digit is.
classifier_init = dict(type='Normal', std=0.2, override=dict(name='conv_seg'))
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=(16, 32, 64, 128), depths=(1, 1, 1, 1)),
        pretrain_img_size=128,
        drop_path_rate=0.0,
        # at these widths a deviation of 0.02 leaves every block next to the identity
        init_cfg=dict(_delete_=True, type='Xavier', layer='Linear', distribution='uniform'),
    ),
    decode_head=dict(
        in_channels=[16, 32, 64, 128],
        channels=48,
        num_classes=11,
        norm_cfg=norm_cfg,
        dropout_ratio=0.0,
        init_cfg=classifier_init,
    ),
    auxiliary_head=dict(
        in_channels=64,
        channels=32,
        num_classes=11,
        norm_cfg=norm_cfg,
        dropout_ratio=0.0,
        init_cfg=classifier_init,
    ),
)
optim_wrapper = dict(optimizer=dict(lr=3e-3, fused=True), clip_grad=dict(max_norm=5.0))
max_iters = 2000
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=100, end=max_iters),
]
default_hooks = dict(checkpoint=dict(interval=max_iters // 2))
randomness = dict(seed=0)
