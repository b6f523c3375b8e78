_base_ = 'base.py'

model = dict(backbone=dict(scans=('hilbert', dict(type='hilbert', reverse=True))))
