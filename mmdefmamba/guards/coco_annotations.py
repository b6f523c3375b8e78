"""COCO annotations of another image size than the image has, and outlines that are none.

A config names this module in ``custom_imports``: it needs mmdet, which the package itself does not import.
"""

import numpy as np
from mmdet.datasets.transforms import LoadAnnotations as MMDetLoadAnnotations
from mmdet.registry import TRANSFORMS

_FAR = 100  # image sides


# force: in the place of mmdet's own, in every pipeline. That one takes boxes as they are: of an image that its viewer
# turned by the EXIF tag, or that was resized later, it learns boxes in the wrong places.
@TRANSFORMS.register_module(force=True)
class LoadAnnotations(MMDetLoadAnnotations):
    """mmdet's LoadAnnotations, for annotations that are of the image's size.

    Raises:
        ValueError: the annotation file gives the image, or a mask, another size; names both. An outline with NaN or far
            outside of the image: pycocotools walks along it pixel by pixel, and would take all memory.
    """

    def transform(self, results):
        size, said = results['ori_shape'], (results.get('height'), results.get('width'))
        if None not in said and tuple(size) != said:
            turned = '. Its EXIF tag turned it: LoadImageFromFile(color_type="color_ignore_orientation") would not'
            raise ValueError(
                f'{results.get("img_path")} has {size[0]} x {size[1]} pixels, its annotations are of an image with '
                f'{said[0]} x {said[1]} (height x width){turned if tuple(size) == said[::-1] else ""}'
            )
        return super().transform(results)

    def _process_masks(self, results):
        limit = _FAR * max(results['ori_shape'])
        for index, instance in enumerate(results.get('instances', [])):  # none where only images are given
            size = instance['mask'].get('size') if isinstance(instance['mask'], dict) else None
            if size is not None and tuple(size) != tuple(results['ori_shape']):  # mmdet would reshape its pixels
                raise ValueError(
                    f'the mask of object {index} of {results.get("img_path")} is of {" x ".join(map(str, size))} '
                    f'pixels, its image has {" x ".join(map(str, results["ori_shape"]))} (height x width)'
                )
            outlines = instance['mask'] if isinstance(instance['mask'], list) else []
            reach = np.abs(np.concatenate([np.asarray(outline, float) for outline in outlines] or [[0]])).max()
            if not reach <= limit:  # NaN, too
                raise ValueError(
                    f'the outline of object {index} of {results.get("img_path")} reaches to {reach:g}, '
                    f'its image has {max(results["ori_shape"])} pixels'
                )
        return super()._process_masks(results)
