# Table 4 (5) and table 5 (6): DefMamba.
_base_ = 'base.py'

model = dict(backbone=dict(scans=('raster', 'raster_reverse', 'deformable')))
