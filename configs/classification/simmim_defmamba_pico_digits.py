# SimMIM on handwritten digits, for a CPU: under three minutes on two cores. It learns without labels and validation.
_base_ = 'defmamba_pico_digits.py'

image_size = _base_.image_size
model = dict(
    _delete_=True,
    type='SimMIM',
    backbone=dict(
        type='MaskedDefMamba',
        arch=_base_.model.backbone.arch,
        pretrain_img_size=image_size,
        out_indices=(3,),
    ),
    neck=dict(type='SimMIMLinearDecoder', in_channels=128, encoder_stride=32),
    head=dict(type='SimMIMHead', patch_size=4, loss=dict(type='PixelReconstructionLoss', criterion='L1', channel=3)),
)
data_preprocessor = dict(_delete_=True, type='SelfSupDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3)
train_pipeline = _base_.train_dataloader.dataset.pipeline[:-1]
train_dataloader = dict(
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        pipeline=[
            *train_pipeline,
            # a pixel of a digit has 4 x 4 pixels here
            dict(type='SimMIMMaskGenerator', input_size=image_size, mask_patch_size=8, mask_ratio=0.6),
            dict(type='PackInputs'),
        ]
    ),
)
val_dataloader, val_evaluator, val_cfg = None, None, None
test_dataloader, test_evaluator, test_cfg = None, None, None
