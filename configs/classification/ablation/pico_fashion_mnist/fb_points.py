# Table 5 (2): deformable points.
_base_ = ['base.py', '../../../_base_/classification/table_scans.py']

model = dict(backbone=dict(scans=_base_.table_scans.fb_points))
