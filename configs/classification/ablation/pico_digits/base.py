# The base of the scan comparison on a CPU: two blocks, one token a pixel, noisy digits, a few passes.
# Task, network, schedule and learning rate were fixed with raster and raster_reverse alone, before any other scan was
# looked at: docs/ablations.md.
_base_ = '../../defmamba_pico_digits.py'

canvas = 8
image_size = 4 * canvas  # the stem's stride is 4: a pixel of the canvas becomes a token
max_epochs = 3

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=(16, 32), depths=(1, 1)),
        pretrain_img_size=image_size,
        scans=('raster', 'raster_reverse'),
        out_indices=(1,),
        drop_path_rate=0.0,
    ),
    head=dict(in_channels=32),
)

digits = dict(
    _delete_=True,
    type='ClutteredDigits',
    canvas=canvas,
    pieces=0,
    noise=30.0,
    pipeline=[dict(type='Resize', scale=(image_size, image_size), interpolation='nearest'), dict(type='PackInputs')],
)
train_dataloader = dict(batch_size=32, dataset=dict(split='train', seed=1, **digits))
val_dataloader = dict(dataset=dict(split='test', copies=2, seed=2, **digits))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=1.5e-2))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=1,
        end=max_epochs,
        T_max=max_epochs - 1,
        convert_to_iter_based=True,
    ),
]
# One score, that of the last epoch: nothing is chosen on the held-out fifth.
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
default_hooks = dict(logger=dict(interval=100), checkpoint=dict(interval=max_epochs))
