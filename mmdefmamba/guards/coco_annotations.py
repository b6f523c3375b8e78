"""The guard ``coco_annotations``: boxes and masks of a COCO file belong to an image of the size that was loaded.

Without it: mmdet takes boxes as they are. For an image that was resized after it was annotated, or that the reader
turned as its EXIF tag says, it learns boxes in the wrong places. pycocotools walks along an outline pixel by pixel: one
that reaches far outside of the image, or has NaN, takes all memory.
Seen in: mmdet 3.3.0.
Can go: when mmdet's LoadAnnotations checks this.
"""

import numpy as np

from ..files import shown
from .loading import guarded

_NAME = 'coco_annotations'
_FAR = 100  # how far an outline may reach, in sides of the image


def install(module):
    """Guard mmdet's LoadAnnotations, which ``module`` defines; classes that inherit from it are not checked."""
    owner = module.LoadAnnotations
    guarded(owner, 'transform', _NAME, lambda transform: _checking(transform, _check_size, owner))
    guarded(owner, '_process_masks', _NAME, lambda process: _checking(process, _check_masks, owner))


def _checking(function, check, owner):
    def checked(self, results):
        if type(self) is owner:
            check(results)
        return function(self, results)

    return checked


def _check_size(results):
    size, annotated = results.get('ori_shape'), (results.get('height'), results.get('width'))
    if size is None or not all(annotated):  # no image was loaded, or the file has placeholders for its size
        return
    annotated = tuple(int(side) for side in annotated)
    if tuple(size) == annotated:
        return
    hint = ''
    if tuple(size) == annotated[::-1]:
        hint = '. Its EXIF tag turned it; LoadImageFromFile(color_type="color_ignore_orientation") does not turn images'
    raise ValueError(
        f'{shown(results.get("img_path"))} has {size[0]} x {size[1]} pixels, but its annotations belong to an image of '
        f'{annotated[0]} x {annotated[1]} (height x width){hint}'
    )


def _check_masks(results):
    if results.get('ori_shape') is None:
        return
    size = tuple(results['ori_shape'])
    for index, instance in enumerate(results.get('instances', [])):  # a test may have images alone
        mask, image = instance.get('mask'), results.get('img_path')
        mask_size = mask.get('size') if isinstance(mask, dict) else None
        if mask_size is not None and tuple(mask_size) != size:  # mmdet would reshape its pixels
            raise ValueError(
                f'the mask of object {index} of {shown(image)} has {" x ".join(map(str, mask_size))} pixels, the '
                'image has '
                f'{" x ".join(map(str, size))} (height x width)'
            )
        outlines = mask if isinstance(mask, list) else []
        reach = np.abs(np.concatenate([np.asarray(outline, float) for outline in outlines] or [[0]])).max(initial=0)
        if not reach <= _FAR * max(size):  # true for NaN as well
            raise ValueError(
                f'the outline of object {index} of {shown(image)} is not valid: it has the coordinate {reach:g}, the '
                'image '
                f'has {max(size)} pixels'
            )
