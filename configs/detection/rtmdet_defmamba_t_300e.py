# RTMDet-s with DefMamba-T, 300 epochs of COCO.
_base_ = ['mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py', '../_base_/detection/defmamba_t.py']
model = dict(
    # RTMDet's own backbones take images as OpenCV reads them. Ours learn from RGB images.
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(_delete_=True, **_base_.defmamba_t_from_stride_8),
    neck=dict(in_channels=[96, 192, 384]),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_weight_decay)
default_hooks = _base_.safe_hooks
custom_hooks = [*_base_.custom_hooks, dict(type='mmdefmamba.guards.GuardsHook')]
