_base_ = ['mmseg::_base_/schedules/schedule_160k.py', '../weight_decay.py']
optim_wrapper = dict(
    _delete_=True,  # its `clip_grad=None` could not be overridden by a dict
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=_base_.no_weight_decay,
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=160000),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
train_cfg = dict(type='ResumableIterBasedTrainLoop')
default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook'),
    step_seed=dict(type='StepSeedHook'),
    interruption=dict(type='InterruptionHook'),
)
