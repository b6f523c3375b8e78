# SegFormer's head, which learns at ten times the rate of the backbone.
_base_ = ['mmseg::_base_/models/segformer_mit-b0.py', '../_base_/segmentation/defmamba_t.py']
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(_delete_=True, **_base_.defmamba_t),
    decode_head=dict(in_channels=[48, 96, 192, 384], num_classes=150),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(decode_head=dict(lr_mult=10.0))))
