_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
custom_imports = dict(imports=['mmdefmamba'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type='DefMamba',
        arch='small',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.2,
        # Start from a classification checkpoint: --cfg-options model.backbone.init_cfg.checkpoint=FILE
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
