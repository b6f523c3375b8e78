# ConvNeXt: as many parameters as DefMamba-pico.
_base_ = '../../_base_/classification/fashion_mnist.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ConvNeXt',
        in_channels=1,
        arch=dict(depths=[1, 1, 2, 1], channels=[21, 42, 84, 168]),
        drop_path_rate=0.05,
    ),
    neck=None,  # the backbone pools
    head=dict(in_channels=168),
)
