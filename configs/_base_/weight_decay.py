# Which parameters take no weight decay, for all three tasks. A schedule inherits this file and writes
# `optim_wrapper = dict(paramwise_cfg=_base_.no_weight_decay)`: MMEngine's bases may not share a top-level key, so it
# cannot be an `optim_wrapper` of its own beside the schedules of mmdet and mmseg.
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
