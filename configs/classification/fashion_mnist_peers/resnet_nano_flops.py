# ResNet-18 of another width: as many FLOPs as DefMamba-nano.
_base_ = '../../_base_/classification/fashion_mnist.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        in_channels=1,
        depth=18,
        base_channels=22,
        stem_channels=22,
        drop_path_rate=0.05,
    ),
    head=dict(in_channels=176),
)
