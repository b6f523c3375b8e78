# OCRNet as it stands on HRNet: its two heads take all four maps, resized to stride 4.
_base_ = ['mmseg::_base_/models/ocrnet_hr18.py', '../_base_/segmentation/defmamba_t.py']
channels = [48, 96, 192, 384]
fcn, ocr = _base_.model.decode_head
fcn.update(in_channels=channels, channels=sum(channels), num_classes=150)
ocr.update(in_channels=channels, num_classes=150)
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(_delete_=True, **_base_.defmamba_t),
    decode_head=[fcn, ocr],
)
