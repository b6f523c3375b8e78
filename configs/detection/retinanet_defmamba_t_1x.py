_base_ = [
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    '../_base_/detection/defmamba_t.py',
    '../_base_/guards.py',
]
model = dict(
    backbone=dict(_delete_=True, **_base_.defmamba_t_from_stride_8),
    neck=dict(in_channels=[96, 192, 384], start_level=0),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, **_base_.adamw), paramwise_cfg=_base_.no_weight_decay)
default_hooks = _base_.safe_hooks
