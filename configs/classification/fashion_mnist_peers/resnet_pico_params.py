# ResNet-18 of another width: as many parameters as DefMamba-pico.
_base_ = '../../_base_/classification/fashion_mnist.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        in_channels=1,
        depth=18,
        base_channels=13,
        stem_channels=13,
        drop_path_rate=0.05,
    ),
    head=dict(in_channels=104),
)
