# What the detectors on mmdet's complete recipes share: a tiny backbone, AdamW, and hooks that lose no checkpoint. A
# leaf writes `backbone=dict(_delete_=True, **_base_.defmamba_t)`, since two bases may not both set `model`. For small
# and base: `arch='small'`, and channels twice as large in the neck.
_base_ = '../weight_decay.py'
custom_imports = dict(imports=['mmdefmamba'], allow_failed_imports=False)
defmamba_t = dict(
    type='DefMamba',
    arch='tiny',
    drop_path_rate=0.1,
    out_indices=(0, 1, 2, 3),
    # Start from a classification checkpoint: --cfg-options model.backbone.init_cfg.checkpoint=FILE
    init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
)
# Heads that start at stride 8 take it with `start_level=0` in their neck: the map at stride 4 would get no gradient.
defmamba_t_from_stride_8 = dict(defmamba_t, out_indices=(1, 2, 3))
adamw = dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
safe_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook'),
    step_seed=dict(type='StepSeedHook'),
    interruption=dict(type='InterruptionHook'),
)
