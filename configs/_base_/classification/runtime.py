_base_ = 'mmpretrain::_base_/default_runtime.py'

default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook', max_keep_ckpts=3, save_best='auto'),
    step_seed=dict(type='StepSeedHook'),
    interruption=dict(type='InterruptionHook'),
)
