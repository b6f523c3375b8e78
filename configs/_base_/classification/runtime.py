_base_ = 'mmpretrain::_base_/default_runtime.py'

default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook', max_keep_ckpts=3, save_best='auto'),
    step_seed=dict(type='StepSeedHook'),
    class_count=dict(type='ClassCountHook'),
    checkpoint_fit=dict(type='CheckpointFitHook'),
    custom_keys=dict(type='CustomKeysHook'),
    every_image=dict(type='EveryImageHook'),
    finite_loss=dict(type='FiniteLossHook'),
)
