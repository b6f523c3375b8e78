_base_ = 'base.py'

model = dict(backbone=dict(scans=('raster', 'raster_reverse', 'quadtree')))
