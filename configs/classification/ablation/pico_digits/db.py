# Table 4 (2): the deformable branch alone.
_base_ = 'base.py'

model = dict(backbone=dict(scans=('deformable',)))
