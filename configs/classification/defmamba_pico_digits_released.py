_base_ = ['defmamba_pico_digits.py', '../_base_/released.py']

model = dict(backbone=_base_.released_backbone)
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, **_base_.released_classification_decay))
