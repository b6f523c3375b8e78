_base_ = ['./mask_rcnn_defmamba_t_1x.py', '../_base_/released.py']
model = dict(backbone=dict(init_cfg=_base_.released_start, **_base_.released_backbone))
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, **_base_.released_dense_decay))
