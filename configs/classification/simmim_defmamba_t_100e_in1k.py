# SimMIM: pretraining without labels on ImageNet-1K, 100 epochs of 192 x 192 images, total batch 2048. The recipe is
# mmpretrain's for Swin. To train a classifier from its checkpoint:
#     tools/train.py configs/classification/defmamba_t_in1k.py --cfg-options model.backbone.init_cfg.type=Pretrained \
#         model.backbone.init_cfg.checkpoint=FILE model.backbone.init_cfg.prefix=backbone.
_base_ = [
    'mmpretrain::simmim/simmim_swin-base-w6_8xb256-amp-coslr-100e_in1k-192px.py',
    '../_base_/weight_decay.py',
    '../_base_/guards.py',
]
custom_imports = dict(imports=['mmdefmamba'], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type='MaskedDefMamba', arch='tiny', pretrain_img_size=192, out_indices=(3,)),
    neck=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, **_base_.no_weight_decay))
default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook'),
    step_seed=dict(type='StepSeedHook'),
    interruption=dict(type='InterruptionHook'),
)
