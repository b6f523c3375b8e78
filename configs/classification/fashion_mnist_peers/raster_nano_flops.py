# DefMamba with forward and backward raster scans alone, as in Vim: as many FLOPs as DefMamba-nano.
_base_ = '../../_base_/classification/fashion_mnist.py'

model = dict(
    backbone=dict(
        in_channels=1,
        arch=dict(embed_dims=(26, 52, 104, 208), depths=(1, 1, 3, 1)),
        pretrain_img_size=_base_.image_size,
        scans=('raster', 'raster_reverse'),
        drop_path_rate=0.05,
    ),
    head=dict(in_channels=208),
)
