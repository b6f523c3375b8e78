_base_ = [
    '../_base_/segmentation/upernet_defmamba.py',
    'mmseg::_base_/datasets/ade20k.py',
    '../_base_/segmentation/schedule_160k.py',
    'mmseg::_base_/default_runtime.py',
]
train_dataloader = dict(batch_size=2)
