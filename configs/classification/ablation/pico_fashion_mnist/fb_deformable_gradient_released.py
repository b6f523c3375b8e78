_base_ = 'base.py'

model = dict(backbone=dict(scans=('raster', 'raster_reverse', dict(type='deformable', order_gradient='released'))))
