"""Pictures whose names are not valid UTF-8.

Defect: mmpretrain, mmdet and mmseg make the name of a picture of the name of the image file. MMEngine's LocalVisBackend
passes it to ``cv2.imwrite``, and mmcv passes its extension to ``cv2.imencode``. A name that is not valid UTF-8 ends the
process there, without a message (segmentation fault).
Seen in: OpenCV 5.0.0, mmengine 0.11.0rc3, mmcv-lite 2.1.0.
Can go: when OpenCV raises an error for such a text, and MMEngine and mmcv write the picture all the same.
"""

import functools
import os

from ..files import decodable
from .marks import replace


def apply(module):
    """Have MMEngine's visualizer, or mmcv, write such a picture under a name of valid UTF-8.

    Args:
        module: mmcv, or the module of MMEngine's Visualizer.

    Returns:
        Whether that changed it.
    """
    if hasattr(module, 'Visualizer'):
        return replace(module.Visualizer, 'add_image', _with_valid_name, 'picture_names')
    return replace(module, 'imwrite', _with_valid_extension, 'picture_names')


def _with_valid_name(add_image):
    @functools.wraps(add_image)
    def added(self, name, *args, **kwargs):
        return add_image(self, decodable(name), *args, **kwargs)

    return added


def _with_valid_extension(imwrite):
    @functools.wraps(imwrite)
    def written(img, file_path, *args, **kwargs):
        extension = os.path.splitext(file_path)[1]
        if decodable(extension) != extension:
            file_path = f'{decodable(file_path)}.png'
        return imwrite(img, file_path, *args, **kwargs)

    return written
