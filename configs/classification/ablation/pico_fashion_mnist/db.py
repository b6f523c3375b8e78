# Table 4 (2): the deformable branch alone.
_base_ = ['base.py', '../../../_base_/classification/table_scans.py']

model = dict(backbone=dict(scans=_base_.table_scans.db))
