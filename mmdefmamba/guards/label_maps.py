"""The guard ``label_maps``: label maps of segmentation have one channel, 8 bits and the size of their image.

Without it: mmseg cuts 16 bits to 8, drops an axis of a map that is one pixel wide, and trains on a map of another size
than the image, to which it stretches the prediction.
Seen in: mmsegmentation 1.2.2.
Can go: when mmseg's LoadAnnotations checks this.
"""

from pathlib import Path

import numpy as np
from mmengine import fileio

from ..files import shown
from .damaged_images import decode
from .loading import guarded

_NAME = 'label_maps'
_DEEP_IGNORED = 65535  # mmseg makes 255 of it, which it ignores
_PNG, _BIT_DEPTH = b'\x89PNG\r\n\x1a\n', 24  # the first bytes, and where the number of bits of a channel is


def install(module):
    """Guard mmseg's LoadAnnotations, which ``module`` defines; classes that inherit from it are not checked."""
    guarded(module.LoadAnnotations, '_load_seg_map', _NAME, lambda load: _checking(load, module.LoadAnnotations))


def _checking(load_seg_map, owner):
    def load(self, results):
        if type(self) is not owner:
            load_seg_map(self, results)
            return
        path = results['seg_map_path']
        try:
            load_seg_map(self, results)
        except OSError as error:
            if path in str(error):
                raise
            raise OSError(f'{shown(path)} could not be read: {error}') from error
        _check(self, path, results)

    return load


def _check(transform, path, results):
    if results.get('ori_shape') is None:  # no image was loaded
        return
    labels, size = results['gt_seg_map'], tuple(results['ori_shape'])
    if labels.ndim < 2 and labels.size == np.prod(size):  # mmseg dropped an axis of one pixel
        labels = results['gt_seg_map'] = labels.reshape(size)
    if labels.ndim != 2:
        raise ValueError(
            f'{shown(path)} has {labels.shape[-1]} channels. A label map has one channel, of class indices: convert '
            'colours '
            'to class indices first'
        )
    if labels.shape != size:
        raise ValueError(
            f'{shown(path)} has {labels.shape[0]} x {labels.shape[1]} pixels, its image '
            f'{shown(results.get("img_path"))} has '
            f'{size[0]} x {size[1]} (height x width)'
        )
    if _is_deep_png(path):
        content = fileio.get(path, backend_args=transform.backend_args)
        deep = decode(content, flag='unchanged', backend=transform.imdecode_backend)
        largest = deep[deep != _DEEP_IGNORED].max(initial=0)
        if largest > 255:
            raise ValueError(f'{shown(path)} has labels up to {largest}, but mmseg reads 8 bits: labels from 0 to 255')


def _is_deep_png(path):
    """Return whether a local file is a PNG of 16 bits; a file on a server is not fetched a second time for this."""
    if not Path(path).is_file():
        return False
    with open(path, 'rb') as file:
        head = file.read(_BIT_DEPTH + 1)
    return head.startswith(_PNG) and head[_BIT_DEPTH:] == b'\x10'
