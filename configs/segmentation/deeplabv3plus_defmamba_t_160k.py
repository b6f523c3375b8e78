# DeepLabV3+. The last map has stride 32 and not 8, so that a quarter of the dilations reaches as far. No head reads the
# map at stride 8.
_base_ = ['mmseg::_base_/models/deeplabv3plus_r50-d8.py', '../_base_/segmentation/defmamba_t.py']
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(_delete_=True, **{**_base_.defmamba_t, 'out_indices': (0, 2, 3)}),
    decode_head=dict(in_channels=384, in_index=2, c1_in_channels=48, dilations=(1, 3, 6, 9), num_classes=150),
    auxiliary_head=dict(in_channels=192, in_index=1, num_classes=150),
)
