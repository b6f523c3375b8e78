# MoCo v3: pretraining without labels on ImageNet-1K, 100 epochs, total batch 4096. Data, heads and epochs are those of
# mmpretrain's recipe for ResNet. The optimizer is that of its recipe for ViT: LARS suits networks with BatchNorm.
_base_ = [
    'mmpretrain::mocov3/mocov3_resnet50_8xb512-amp-coslr-100e_in1k.py',
    '../_base_/weight_decay.py',
    '../_base_/guards.py',
]
custom_imports = dict(imports=['mmdefmamba'], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type='DefMamba', arch='tiny', out_indices=(3,)),
    neck=dict(in_channels=384),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2.4e-3, weight_decay=0.1),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(_delete_=True, **_base_.no_weight_decay),
)
default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook'),
    step_seed=dict(type='StepSeedHook'),
    interruption=dict(type='InterruptionHook'),
)
