# The parameters that take no weight decay, for all three tasks. A schedule inherits this file and writes
# `optim_wrapper = dict(paramwise_cfg=_base_.no_weight_decay)`. Two bases of a config may not have the same top-level
# key, so this file cannot set `optim_wrapper` itself beside the schedules of mmdet and mmseg.
no_weight_decay = dict(
    norm_decay_mult=0.0,
    bias_decay_mult=0.0,
    flat_decay_mult=0.0,  # every other 1-D parameter, D among them
    # State space parameters and the offset bias are not 1-D, and not named `bias`.
    custom_keys={
        'A_log': dict(decay_mult=0.0),
        'dt_proj_bias': dict(decay_mult=0.0),
        'offset_bias.table': dict(decay_mult=0.0),
    },
)
