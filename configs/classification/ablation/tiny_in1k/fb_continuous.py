# Table 4 (3): a continuous branch beside forward and backward.
_base_ = '../../defmamba_t_in1k.py'

model = dict(backbone=dict(scans=('raster', 'raster_reverse', 'continuous')))
