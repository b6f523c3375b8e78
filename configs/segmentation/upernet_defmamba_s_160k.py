_base_ = [
    '../_base_/segmentation/upernet_defmamba.py',
    'mmseg::_base_/datasets/ade20k.py',
    '../_base_/segmentation/schedule_160k.py',
    '../_base_/segmentation/runtime.py',
]
train_dataloader = dict(batch_size=2)
