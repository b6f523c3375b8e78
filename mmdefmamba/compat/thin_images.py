"""Images that mmcv scales to a side of 0 pixels.

Defect: mmcv scales an image of 1 x 4096 pixels to 0 x 1333 when it keeps the aspect ratio, and OpenCV refuses.
Seen in: mmcv-lite 2.1.0.
Can go: when ``mmcv.rescale_size`` leaves at least one pixel.
"""

import functools

from .marks import replace


def apply(module):
    """Have a module of mmcv scale each side to at least one pixel; returns whether that changed it.

    ``mmcv.image.geometric`` defines the function, ``mmcv.transforms.processing`` imports it by name.
    """
    return replace(module, '_scale_size', _at_least_one_pixel, 'thin_images')


def _at_least_one_pixel(scale_size):
    @functools.wraps(scale_size)
    def scaled(size, scale):
        return tuple(max(1, side) for side in scale_size(size, scale))

    return scaled
