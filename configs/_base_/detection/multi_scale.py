# The paper's multi-scale training: the short side from 480 to 800, the long side at most 1333. A config takes it by
# `train_dataloader = dict(dataset=dict(pipeline=_base_.multi_scale_pipeline))`.
multi_scale_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomChoiceResize', scales=[(1333, short) for short in range(480, 801, 32)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
