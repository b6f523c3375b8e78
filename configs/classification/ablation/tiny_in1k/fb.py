# Table 4 (1): forward and backward branches alone.
_base_ = '../../defmamba_t_in1k.py'

model = dict(backbone=dict(scans=('raster', 'raster_reverse')))
