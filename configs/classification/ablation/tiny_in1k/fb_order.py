# Table 5 (3): deformable token order.
_base_ = '../../defmamba_t_in1k.py'

model = dict(
    backbone=dict(
        scans=(
            'raster',
            'raster_reverse',
            dict(type='deformable', points=False, offset_bias=False, channel_attention=False),
        )
    )
)
