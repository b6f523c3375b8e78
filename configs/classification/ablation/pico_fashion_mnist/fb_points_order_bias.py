# Table 5 (5): points, order and offset bias.
_base_ = ['base.py', '../../../_base_/classification/table_scans.py']

model = dict(backbone=dict(scans=_base_.table_scans.fb_points_order_bias))
