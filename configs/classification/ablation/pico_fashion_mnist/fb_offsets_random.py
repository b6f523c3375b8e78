# A control: the deformable scan with fixed offsets that were drawn at random and not learned.
_base_ = 'base.py'

model = dict(backbone=dict(scans=('raster', 'raster_reverse', dict(type='deformable_fixed', offsets='random'))))
