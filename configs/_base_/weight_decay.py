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
# The same for a recipe that trains the backbone at a tenth of the learning rate, as `custom_keys`. There the name
# `backbone` stands for all its parameters, so that its norms must be named. Longer names come first.
slow_backbone = {
    'backbone': dict(lr_mult=0.1),
    **{
        f'backbone.{name}': dict(lr_mult=0.1, decay_mult=0.0)
        for name in (
            *(f'norm{stage}' for stage in range(4)),
            *(f'stem.{layer}.norm' for layer in (0, 2)),
            *(f'downsamples.{stage}.norm' for stage in range(3)),
            *(f'stages.{stage}.{block}.norm' for stage in range(4) for block in range(16)),
        )
    },
    # These names have no `backbone.`; none of them occurs in a head.
    'A_log': dict(lr_mult=0.1, decay_mult=0.0),
    'dssm.D': dict(lr_mult=0.1, decay_mult=0.0),
    'dt_proj_bias': dict(lr_mult=0.1, decay_mult=0.0),
    'offset_bias.table': dict(lr_mult=0.1, decay_mult=0.0),
}
