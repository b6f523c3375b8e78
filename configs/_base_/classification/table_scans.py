# The scans of tables 4 and 5 of the paper. The ablations on ImageNet and on digits share them:
# `model = dict(backbone=dict(scans=_base_.table_scans.fb_points))`.
raster_pair = ('raster', 'raster_reverse')
table_scans = dict(
    # Table 4 (2): the deformable branch alone.
    db=('deformable',),
    # Table 4 (1): forward and backward branches alone.
    fb=raster_pair,
    # Table 4 (3): a continuous branch beside forward and backward.
    fb_continuous=(*raster_pair, 'continuous'),
    # Table 5 (3): deformable token order.
    fb_order=(*raster_pair, dict(type='deformable', points=False, offset_bias=False, channel_attention=False)),
    # Table 5 (2): deformable points.
    fb_points=(*raster_pair, dict(type='deformable', order=False, offset_bias=False, channel_attention=False)),
    # Table 5 (4): points and order.
    fb_points_order=(*raster_pair, dict(type='deformable', offset_bias=False, channel_attention=False)),
    # Table 5 (5): points, order and offset bias.
    fb_points_order_bias=(*raster_pair, dict(type='deformable', channel_attention=False)),
    # Not in a table: the offset network as the text of the paper has it, and not the authors' code. GELU comes before
    # LayerNorm.
    fb_gelu_first=(*raster_pair, dict(type='deformable', norm_first=False)),
    # The channel attention pools the map after the depthwise convolution.
    fb_attention_convolution=(*raster_pair, dict(type='deformable', attention_input='convolution')),
    # Table 5 (1): no part of the deformable scan, which leaves a second forward branch. Control for every third branch.
    fb_raster=(*raster_pair, 'raster'),
)
