# Table 5 (1): no part of the deformable scan, which leaves a second forward branch. Control for every third branch.
_base_ = '../../defmamba_t_in1k.py'

model = dict(backbone=dict(scans=('raster', 'raster_reverse', 'raster')))
