# DINO with four scales, 12 epochs of COCO. The backbone learns at a tenth of the rate of the rest.
_base_ = [
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    '../_base_/detection/defmamba_t.py',
    '../_base_/guards.py',
]
model = dict(
    backbone=dict(_delete_=True, **_base_.defmamba_t_from_stride_8),
    neck=dict(in_channels=[96, 192, 384]),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.slow_backbone))
default_hooks = _base_.safe_hooks
