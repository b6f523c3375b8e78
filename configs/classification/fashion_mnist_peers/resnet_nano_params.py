# ResNet-18 of another width: as many parameters as DefMamba-nano.
_base_ = '../../_base_/classification/fashion_mnist.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        in_channels=1,
        depth=18,
        base_channels=20,
        stem_channels=20,
        drop_path_rate=0.05,
    ),
    head=dict(in_channels=160),
)
