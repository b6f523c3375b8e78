"""Images that are scaled to no pixel at all.

Defect: mmcv scales an image of 1 x 4096 pixels, keeping its ratio, to 0 x 1333, and OpenCV refuses.
Seen in: mmcv-lite 2.1.0.
Can go: when ``mmcv.rescale_size`` leaves at least one pixel.
"""

import functools

from mmcv.image import geometric


def apply():
    """Have mmcv scale images to one pixel at least.

    Returns:
        What was done and why, one line; None where it was done already.
    """
    if hasattr(geometric._scale_size, '__wrapped__'):
        return None
    geometric._scale_size = _at_least_a_pixel(geometric._scale_size)
    return 'mmcv scales thin images to one pixel at least: it would to none, and fail'


def _at_least_a_pixel(scale_size):
    @functools.wraps(scale_size)
    def scaled(size, scale):
        return tuple(max(1, side) for side in scale_size(size, scale))

    return scaled
