# 300 epochs on ImageNet-1K at a total batch of 1024.
_base_ = ['../weight_decay.py', '../guards.py']

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    paramwise_cfg=_base_.no_weight_decay,
    clip_grad=dict(max_norm=5.0),
)
auto_scale_lr = dict(base_batch_size=1024)

# Both change with each iteration; the cosine of mmpretrain's own schedule for Swin changes once per epoch.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=20, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=20, end=300, T_max=280, convert_to_iter_based=True
    ),
]

train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# Decay 0.9999; validation and testing use the averaged weights.
custom_hooks = [*_base_.custom_hooks, dict(type='EMAHook', momentum=1e-4)]
