# Table 4 (3): a continuous branch beside forward and backward.
_base_ = ['base.py', '../../../_base_/classification/table_scans.py']

model = dict(backbone=dict(scans=_base_.table_scans.fb_continuous))
