_base_ = 'base.py'

model = dict(backbone=dict(scans=('column', 'column_reverse')))
