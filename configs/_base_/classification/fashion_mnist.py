# Fashion-MNIST at 32 x 32, and the recipe with which docs/evidence.md compares networks on it. A leaf sets the model.
# data/fashion_mnist holds the four files as they are published, unpacked: docs/evidence.md says where to get them.
_base_ = ['model.py', 'runtime.py', '../weight_decay.py', '../guards.py']

image_size = 32  # 28 pixels are enlarged, so that a stem of stride 4 gives whole maps
max_epochs = 1  # one look at each of the 60,000 images: docs/evidence.md compares 18 networks with 5 seeds

model = dict(head=dict(num_classes=10), train_cfg=None)
data_preprocessor = dict(num_classes=10, mean=[127.5], std=[127.5], to_rgb=False)

resize = dict(type='Resize', scale=(image_size, image_size), interpolation='bicubic')
data = dict(type='FashionMNIST', data_root='data/fashion_mnist', download=False)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(
        split='train',
        pipeline=[
            resize,
            dict(type='RandomCrop', crop_size=image_size, padding=2),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
        **data,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    dataset=dict(split='test', test_mode=True, pipeline=[resize, dict(type='PackInputs')], **data),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

# The optimizer is that of the digits. Nothing here was tuned on Fashion-MNIST, for any network.
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05, fused=True),
    paramwise_cfg=_base_.no_weight_decay,
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, end=100),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        end=max_epochs,
        T_max=max_epochs,
        convert_to_iter_based=True,
    ),
]
# One score, that of the last epoch: nothing is chosen on the test images.
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(logger=dict(interval=100), checkpoint=dict(interval=max_epochs, max_keep_ckpts=1, save_best=None))
randomness = dict(seed=0)
