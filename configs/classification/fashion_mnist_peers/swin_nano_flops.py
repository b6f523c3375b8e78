# Swin Transformer with windows of 4 x 4: as many FLOPs as DefMamba-nano.
_base_ = '../../_base_/classification/fashion_mnist.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        in_channels=1,
        arch=dict(embed_dims=21, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 2]),
        img_size=_base_.image_size,
        window_size=4,
        pad_small_map=True,
        drop_path_rate=0.05,
    ),
    head=dict(in_channels=168),
)
