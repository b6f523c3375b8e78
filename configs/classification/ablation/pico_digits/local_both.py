_base_ = 'base.py'

model = dict(backbone=dict(scans=(dict(type='local', window=2), dict(type='local', window=2, reverse=True))))
