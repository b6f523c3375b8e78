_base_ = './mask_rcnn_defmamba_s_1x.py'
model = dict(backbone=dict(formulation='released'))
