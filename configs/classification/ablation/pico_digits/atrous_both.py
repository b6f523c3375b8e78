_base_ = 'base.py'

model = dict(backbone=dict(scans=('atrous', dict(type='atrous', reverse=True))))
