# Mask R-CNN on digit scenes with Swin Transformer with windows of 4 x 4, beside DefMamba of about as many parameters.
_base_ = '../mask_rcnn_defmamba_pico_digits.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.SwinTransformer',
        arch=dict(embed_dims=18, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 2]),
        img_size=128,
        window_size=4,
        pad_small_map=True,
        out_indices=(0, 1, 2, 3),
    ),
    neck=dict(in_channels=[18, 36, 72, 144]),
)
