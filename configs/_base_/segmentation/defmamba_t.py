# What the segmentors on mmseg's models share. A leaf writes `backbone=dict(_delete_=True, **_base_.defmamba_t)`, since
# two bases may not both set `model`. For small and base: `arch='small'`, and channels twice as large in the heads.
_base_ = ['mmseg::_base_/datasets/ade20k.py', './schedule_160k.py', './runtime.py']
custom_imports = dict(imports=['mmdefmamba'], allow_failed_imports=False)
defmamba_t = dict(
    type='DefMamba',
    arch='tiny',
    drop_path_rate=0.1,
    out_indices=(0, 1, 2, 3),
    # Start from a classification checkpoint: --cfg-options model.backbone.init_cfg.checkpoint=FILE
    init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
)
train_dataloader = dict(batch_size=2)
