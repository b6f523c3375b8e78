# ConvNeXt: as many parameters as DefMamba-nano.
_base_ = '../../_base_/classification/fashion_mnist.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ConvNeXt',
        in_channels=1,
        arch=dict(depths=[1, 1, 3, 1], channels=[31, 62, 124, 248]),
        drop_path_rate=0.05,
    ),
    neck=None,  # the backbone pools
    head=dict(in_channels=248),
)
