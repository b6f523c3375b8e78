# Table 5 (2): deformable points.
_base_ = 'base.py'

model = dict(
    backbone=dict(
        scans=(
            'raster',
            'raster_reverse',
            dict(type='deformable', order=False, offset_bias=False, channel_attention=False),
        )
    )
)
