# Mask2Former for semantic segmentation. The backbone learns at a tenth of the rate of the rest.
_base_ = [
    'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
    '../_base_/weight_decay.py',
    '../_base_/guards.py',
]
custom_imports = dict(imports=['mmdefmamba', 'mmdet.models'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type='DefMamba',
        arch='tiny',
        drop_path_rate=0.1,
        # Start from a classification checkpoint: --cfg-options model.backbone.init_cfg.checkpoint=FILE
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
    ),
    decode_head=dict(in_channels=[48, 96, 192, 384]),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.slow_backbone))
train_cfg = dict(type='ResumableIterBasedTrainLoop')
default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook'),
    step_seed=dict(type='StepSeedHook'),
    interruption=dict(type='InterruptionHook'),
)
