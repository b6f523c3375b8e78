# Semantic FPN.
_base_ = ['mmseg::_base_/models/fpn_r50.py', '../_base_/segmentation/defmamba_t.py']
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(_delete_=True, **_base_.defmamba_t),
    neck=dict(in_channels=[48, 96, 192, 384]),
    decode_head=dict(num_classes=150),
)
