_base_ = 'base.py'

model = dict(backbone=dict(scans=('zigzag', dict(type='zigzag', reverse=True))))
