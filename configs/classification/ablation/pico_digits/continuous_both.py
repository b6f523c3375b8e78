_base_ = 'base.py'

model = dict(backbone=dict(scans=('continuous', dict(type='continuous', reverse=True))))
