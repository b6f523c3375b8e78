_base_ = ['./mask_rcnn_defmamba_s_1x.py', '../_base_/detection/multi_scale.py']
train_dataloader = dict(dataset=dict(pipeline=_base_.multi_scale_pipeline))
