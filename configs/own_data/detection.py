# Fine-tune a detector on your own images with annotations in COCO's format: DATA_ROOT/train.json, DATA_ROOT/val.json,
# and the images in DATA_ROOT/images. Images may have any size and format. The classes are the categories of the file.
# If each object has an outline, this is a Mask R-CNN, otherwise a Faster R-CNN. How to: docs/howto/own_data.md.
# MMEngine wants _base_ before any import.
_base_ = [
    '../_base_/detection/mask_rcnn_defmamba.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/detection/schedule_1x.py',
    '../_base_/detection/runtime.py',
]
from mmdefmamba.datasets.own_data import checkpoint_or_none, coco_classes, coco_has_masks  # noqa: E402
from mmdefmamba.models.defmamba import ARCHITECTURES  # noqa: E402

# Change these three.
data_root = 'data/own'
pretrained = None  # path of a classification checkpoint of DefMamba; None starts from random weights
max_epochs = 24

# Change these if you like. frozen_stages=2 keeps the stem and the first two stages of the checkpoint as they are.
arch = 'tiny'  # 'tiny', 'small' or 'base', as in the checkpoint
formulation = 'paper'  # 'released' for a checkpoint that was converted from the authors' files
image_size = 640  # pixels of the longer side
batch_size = 2
frozen_stages = -1
train_file, val_file = f'{data_root}/train.json', f'{data_root}/val.json'

embed_dims = list((ARCHITECTURES[arch] if isinstance(arch, str) else arch)['embed_dims'])
classes = coco_classes(train_file, val_file)
masks = coco_has_masks(train_file) and coco_has_masks(val_file)

model = dict(
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
    neck=dict(in_channels=embed_dims),
    roi_head=dict(bbox_head=dict(num_classes=len(classes)), mask_head=dict(num_classes=len(classes))),
)
if not masks:
    model['roi_head'].update(mask_roi_extractor=None, mask_head=None)
    model.update(type='FasterRCNN', data_preprocessor=dict(pad_mask=False))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
    dict(type='RandomResize', scale=(image_size, image_size), ratio_range=(0.75, 1.25), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(image_size, image_size), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
dataset = dict(data_root=data_root, metainfo=dict(classes=classes), data_prefix=dict(img='images/'))
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(
        **dataset, ann_file='train.json', filter_cfg=dict(filter_empty_gt=False, min_size=1), pipeline=train_pipeline
    ),
)
val_dataloader = dict(batch_size=1, dataset=dict(**dataset, ann_file='val.json', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=val_file, metric=['bbox', 'segm'] if masks else ['bbox'], classwise=True)
test_evaluator = val_evaluator

optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(base_batch_size=batch_size)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=max(max_epochs // 10, 1), convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, T_max=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=1, max_keep_ckpts=1, save_best='coco/bbox_mAP', rule='greater')
)
randomness = dict(seed=0)
