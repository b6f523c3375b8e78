"""Label maps that do not fit their image, or mmseg's eight bits.

A config names this module in ``custom_imports``: it needs mmseg, which the package itself does not import.
"""

from pathlib import Path

import mmcv
import numpy as np
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations as MMSegLoadAnnotations
from mmseg.registry import TRANSFORMS

_PNG, _BIT_DEPTH = b'\x89PNG\r\n\x1a\n', 24  # first bytes, and where the bits of a channel stand


# force: in the place of mmseg's own, in every pipeline. That one wraps 16 bits to 8 without a word, drops the axis of a
# map that is one pixel wide, and trains on a map of another size, stretching the prediction to it.
@TRANSFORMS.register_module(force=True)
class LoadAnnotations(MMSegLoadAnnotations):
    """mmseg's LoadAnnotations, for label maps of one channel, eight bits and the image's size.

    Raises:
        OSError: the label map is missing or damaged; names the file.
        ValueError: the label map has colours, larger labels, or another size than the image; names the file.
    """

    def _load_seg_map(self, results):
        path = results['seg_map_path']
        try:
            super()._load_seg_map(results)
        except OSError as error:
            if path in str(error):
                raise
            raise OSError(f'{path} could not be read: {error}') from error
        labels, size = results['gt_seg_map'], tuple(results['ori_shape'])
        if labels.ndim < 2 and labels.size == np.prod(size):  # squeezed away: one pixel high or wide
            labels = results['gt_seg_map'] = labels.reshape(size)
        if labels.ndim != 2:
            raise ValueError(
                f'{path} has {labels.shape[-1]} channels: a label map has one, of class indices. Colours have to be '
                'converted to them first'
            )
        if labels.shape != size:
            raise ValueError(
                f'{path} has {labels.shape[0]} x {labels.shape[1]} pixels, its image {results.get("img_path")} has '
                f'{size[0]} x {size[1]} (height x width)'
            )
        if _is_deep_png(path):
            content = fileio.get(path, backend_args=self.backend_args)
            largest = mmcv.imfrombytes(content, flag='unchanged', backend=self.imdecode_backend).max()
            if largest > 255:
                raise ValueError(f'{path} has labels up to {largest}: mmseg reads eight bits, 0 to 255')


def _is_deep_png(path):
    """Whether a file on this machine is a PNG of 16 bits; what is elsewhere is not fetched twice to look."""
    if not Path(path).is_file():
        return False
    with open(path, 'rb') as file:
        head = file.read(_BIT_DEPTH + 1)
    return head.startswith(_PNG) and head[_BIT_DEPTH:] == b'\x10'
