_base_ = [
    '../_base_/classification/model.py',
    '../_base_/classification/schedule_300e.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    '../_base_/classification/runtime.py',
]

model = dict(backbone=dict(arch='tiny'), head=dict(in_channels=384))
train_dataloader = dict(batch_size=128)
