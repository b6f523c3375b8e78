_base_ = ['mmdet::_base_/default_runtime.py', '../guards.py']

default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook'),
    step_seed=dict(type='StepSeedHook'),
    interruption=dict(type='InterruptionHook'),
)
