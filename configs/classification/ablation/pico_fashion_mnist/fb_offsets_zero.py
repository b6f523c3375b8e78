# A control: the deformable scan with offsets of zero: each token reads its own place, row by row.
_base_ = 'base.py'

model = dict(backbone=dict(scans=('raster', 'raster_reverse', dict(type='deformable_fixed', offsets='zero'))))
