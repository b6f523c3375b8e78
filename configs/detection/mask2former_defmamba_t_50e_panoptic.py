# Mask2Former for panoptic segmentation, 50 epochs of COCO. The backbone learns at a tenth of the rate of the rest.
_base_ = [
    'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py',
    '../_base_/detection/defmamba_t.py',
    '../_base_/guards.py',
]
model = dict(
    backbone=dict(_delete_=True, **_base_.defmamba_t),
    panoptic_head=dict(in_channels=[48, 96, 192, 384]),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.slow_backbone))
train_cfg = dict(type='ResumableIterBasedTrainLoop')
default_hooks = _base_.safe_hooks
