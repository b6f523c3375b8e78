# Table 5 (4): points and order.
_base_ = 'base.py'

model = dict(
    backbone=dict(
        scans=('raster', 'raster_reverse', dict(type='deformable', offset_bias=False, channel_attention=False))
    )
)
