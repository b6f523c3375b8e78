# Table 4 (1): forward and backward branches alone.
_base_ = ['base.py', '../../../_base_/classification/table_scans.py']

model = dict(backbone=dict(scans=_base_.table_scans.fb))
