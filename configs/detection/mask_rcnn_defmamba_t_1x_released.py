_base_ = './mask_rcnn_defmamba_t_1x.py'
model = dict(backbone=dict(formulation='released'))
