# The authors' code and checkpoints: its formulation, and every resize of images bilinear.
_base_ = 'defmamba_t_in1k.py'

model = dict(backbone=dict(formulation='released'))

train_pipeline = _base_.train_pipeline
train_pipeline[1].interpolation = 'bilinear'  # RandomResizedCrop
train_pipeline[3].hparams.interpolation = 'bilinear'  # RandAugment
test_pipeline = _base_.test_pipeline
test_pipeline[1].interpolation = 'bilinear'  # ResizeEdge
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
