# Fine-tune a classifier on your own images, one folder per class: DATA_ROOT/train/cat/*.jpg, DATA_ROOT/val/cat/*.jpg.
# Images may have any size and format. The classes are the names of the folders. How to: docs/howto/own_data.md.
# MMEngine wants _base_ before any import.
_base_ = [
    '../_base_/classification/model.py',
    '../_base_/classification/runtime.py',
    '../_base_/weight_decay.py',
    '../_base_/guards.py',
]
from mmdefmamba.datasets.own_data import checkpoint_or_none, folder_classes  # noqa: E402
from mmdefmamba.files import IMAGE_EXTENSIONS  # noqa: E402
from mmdefmamba.models.defmamba import ARCHITECTURES  # noqa: E402

# Change these three.
data_root = 'data/own'
pretrained = None  # path of a classification checkpoint of DefMamba; None starts from random weights
max_epochs = 30

# Change these if you like. frozen_stages=2 keeps the stem and the first two stages of the checkpoint as they are.
arch = 'tiny'  # 'tiny', 'small' or 'base', as in the checkpoint
formulation = 'paper'  # 'released' for a checkpoint that was converted from the authors' files
image_size = 224
batch_size = 32
frozen_stages = -1

embed_dims = list((ARCHITECTURES[arch] if isinstance(arch, str) else arch)['embed_dims'])
classes = folder_classes(data_root)

model = dict(
    backbone=dict(
        arch=arch,
        formulation=formulation,
        drop_path_rate=0.1,
        frozen_stages=frozen_stages,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint_or_none(pretrained), prefix='backbone.'),
    ),
    head=dict(in_channels=embed_dims[-1], num_classes=len(classes)),
    train_cfg=None,  # no Mixup and no CutMix, which need long schedules
)
data_preprocessor = dict(
    num_classes=len(classes), mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=image_size, crop_ratio_range=(0.3, 1.0)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=image_size * 8 // 7, edge='short'),
    dict(type='CenterCrop', crop_size=image_size),
    dict(type='PackInputs'),
]
dataset = dict(type='CustomDataset', data_root=data_root, metainfo=dict(classes=classes), extensions=IMAGE_EXTENSIONS)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    dataset=dict(**dataset, data_prefix='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    dataset=dict(**dataset, data_prefix='val', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05),
    paramwise_cfg=_base_.no_weight_decay,
    clip_grad=dict(max_norm=5.0),
)
auto_scale_lr = dict(base_batch_size=batch_size)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=max(max_epochs // 10, 1), convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, T_max=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=1, max_keep_ckpts=1, save_best='accuracy/top1'))
randomness = dict(seed=0)
