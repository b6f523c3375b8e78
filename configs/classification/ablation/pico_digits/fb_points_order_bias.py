# Table 5 (5): points, order and offset bias.
_base_ = 'base.py'

model = dict(backbone=dict(scans=('raster', 'raster_reverse', dict(type='deformable', channel_attention=False))))
