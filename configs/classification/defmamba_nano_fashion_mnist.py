# DefMamba-nano, of 1.1 M parameters, on Fashion-MNIST.
_base_ = '../_base_/classification/fashion_mnist.py'

model = dict(
    backbone=dict(
        in_channels=1,
        arch=dict(embed_dims=(24, 48, 96, 192), depths=(1, 1, 3, 1)),
        pretrain_img_size=_base_.image_size,
        drop_path_rate=0.05,
    ),
    head=dict(in_channels=192),
)
