# Table 5 (1): no part of the deformable scan, which leaves a second forward branch. Control for every third branch.
_base_ = ['base.py', '../../../_base_/classification/table_scans.py']

model = dict(backbone=dict(scans=_base_.table_scans.fb_raster))
