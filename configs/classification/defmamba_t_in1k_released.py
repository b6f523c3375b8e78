# The authors' code and checkpoints: its formulation, its weight decay, and every resize of images bilinear.
_base_ = ['defmamba_t_in1k.py', '../_base_/released.py']

model = dict(backbone=_base_.released_backbone)
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, **_base_.released_classification_decay))

train_pipeline = _base_.train_pipeline
train_pipeline[1].interpolation = 'bilinear'  # RandomResizedCrop
train_pipeline[3].hparams.interpolation = 'bilinear'  # RandAugment
test_pipeline = _base_.test_pipeline
test_pipeline[1].interpolation = 'bilinear'  # ResizeEdge
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
