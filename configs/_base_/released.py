# What the authors' code does differently, for the configs whose names end in `_released`. Two bases of a config may not
# have the same top-level key, so this file sets no `model` and no `optim_wrapper` itself.
released_backbone = dict(
    formulation='released',
    # The float16 of their autocast, on request:
    # --cfg-options model.backbone.scans.2.key_dtype=float16 model.backbone.scans.2.point_dtype=float16
    scans=['raster', 'raster_reverse', dict(type='deformable', key_dtype='float32', point_dtype='float32')],
)
# Detection and segmentation start from the weights of the classifier before averaging, and with new output norms.
released_start = dict(weights='raw', output_norms='fresh')
# Classification: 1-D parameters and biases take no weight decay; A_log, dt_proj_bias and the bias tables take it.
released_classification_decay = dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0)
# Detection and segmentation: parameters with `norm` in their name take no weight decay. Some norms have another name in
# the authors' code, so they take it. They are given here by our names; a longer name comes before a shorter one.
released_dense_decay = dict(
    custom_keys={
        'norm': dict(decay_mult=0.0),
        'stem.0.norm': dict(decay_mult=1.0),
        'stem.2.norm': dict(decay_mult=1.0),
        'downsamples.0.norm': dict(decay_mult=1.0),
        'downsamples.1.norm': dict(decay_mult=1.0),
        'downsamples.2.norm': dict(decay_mult=1.0),
        'offset_network.norm': dict(decay_mult=1.0),
    }
)
