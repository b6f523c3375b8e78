# Table 4 (4): a local branch beside forward and backward.
_base_ = 'base.py'

model = dict(backbone=dict(scans=('raster', 'raster_reverse', dict(type='local', window=2))))
