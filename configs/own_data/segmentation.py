# Fine-tune a segmentor on your own images with label maps: DATA_ROOT/images/train/*, DATA_ROOT/labels/train/*.png, and
# the same for val. A label map has the number of the class of each pixel, from 0; 255 is ignored. The names of the
# classes are the lines of DATA_ROOT/classes.txt, or else their numbers. Images may have any size and format. How to:
# docs/howto/own_data.md.
# MMEngine wants _base_ before any import.
_base_ = [
    '../_base_/segmentation/upernet_defmamba.py',
    '../_base_/segmentation/runtime.py',
    '../_base_/weight_decay.py',
]
from mmdefmamba.datasets.own_data import checkpoint_or_none, map_classes  # noqa: E402
from mmdefmamba.models.defmamba import ARCHITECTURES  # noqa: E402

# Change these three.
data_root = 'data/own'
pretrained = None  # path of a classification checkpoint of DefMamba; None starts from random weights
max_epochs = 50

# Change these if you like. frozen_stages=2 keeps the stem and the first two stages of the checkpoint as they are.
arch = 'tiny'  # 'tiny', 'small' or 'base', as in the checkpoint
formulation = 'paper'  # 'released' for a checkpoint that was converted from the authors' files
image_size = 512  # pixels of the shorter side, and side of the crops in training
batch_size = 4
frozen_stages = -1

embed_dims = list((ARCHITECTURES[arch] if isinstance(arch, str) else arch)['embed_dims'])
classes = map_classes(data_root)

# GroupNorm, since BatchNorm does not work with batches of one or two images. num_groups must divide the channels below.
# channels=32 would leave one value per group to normalize in pooled maps of 1 x 1: use 64 or more.
norm_cfg = dict(type='GN', num_groups=32, requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(image_size, image_size)),
    backbone=dict(
        _delete_=True,
        type='DefMamba',
        arch=arch,
        formulation=formulation,
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1,
        frozen_stages=frozen_stages,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint_or_none(pretrained), prefix='backbone.'),
    ),
    decode_head=dict(in_channels=embed_dims, channels=256, num_classes=len(classes), norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=embed_dims[-2], channels=128, num_classes=len(classes), norm_cfg=norm_cfg),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(4 * image_size, image_size), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(image_size, image_size), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(4 * image_size, image_size), keep_ratio=True),
    # after Resize, because the score is computed at the size of the label map
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset = dict(
    type='mmdefmamba.datasets.any_suffix.AnySuffixSegDataset', data_root=data_root, metainfo=dict(classes=classes)
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        **dataset, data_prefix=dict(img_path='images/train', seg_map_path='labels/train'), pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**dataset, data_prefix=dict(img_path='images/val', seg_map_path='labels/val'), pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.01),
    paramwise_cfg=_base_.no_weight_decay,
    clip_grad=dict(max_norm=5.0),
)
auto_scale_lr = dict(enable=False, base_batch_size=batch_size)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=max(max_epochs // 10, 1), convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, T_max=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
log_processor = dict(by_epoch=True)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=10),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='SafeCheckpointHook', interval=1, max_keep_ckpts=1, save_best='mIoU'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
    step_seed=dict(type='StepSeedHook'),
    interruption=dict(type='InterruptionHook'),
)
randomness = dict(seed=0)
