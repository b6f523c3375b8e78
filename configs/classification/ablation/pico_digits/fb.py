# Table 4 (1): forward and backward branches alone.
_base_ = 'base.py'

model = dict(backbone=dict(scans=('raster', 'raster_reverse')))
