# A DefMamba small enough to learn handwritten digits on two CPU cores in a few minutes.
_base_ = [
    '../_base_/classification/model.py',
    '../_base_/classification/runtime.py',
    '../_base_/weight_decay.py',
    '../_base_/guards.py',
]

image_size = 32
max_epochs = 24

model = dict(
    backbone=dict(
        arch=dict(embed_dims=(16, 32, 64, 128), depths=(1, 1, 2, 1)),
        pretrain_img_size=image_size,
        drop_path_rate=0.05,
    ),
    head=dict(num_classes=10, in_channels=128),
    train_cfg=None,
)
data_preprocessor = dict(num_classes=10, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=False)

resize = dict(type='Resize', scale=(image_size, image_size), interpolation='bicubic')
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(
        type='Digits',
        split='train',
        pipeline=[
            resize,
            dict(type='Rotate', angle=10.0, prob=0.5, random_negative_prob=0.5),
            dict(type='Shear', magnitude=0.1, prob=0.5, random_negative_prob=0.5),
            dict(type='RandomCrop', crop_size=image_size, padding=2),
            dict(type='PackInputs'),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=120,
    num_workers=0,
    dataset=dict(type='Digits', split='test', pipeline=[resize, dict(type='PackInputs')]),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    paramwise_cfg=_base_.no_weight_decay,
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=True, end=3, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=3,
        end=max_epochs,
        T_max=max_epochs - 3,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=6)
val_cfg = dict()
test_cfg = dict()

# No save_best: the held-out fifth must not choose the checkpoint that it then scores.
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=6, max_keep_ckpts=1, save_best=None))
randomness = dict(seed=0)
