"""Enlarging small images, so that names and boxes can be drawn on them, and reducing large ones."""

import cv2
import torch
from mmengine.structures import PixelData

MIN_SIDE = 480  # pixels; on a smaller image the name of an object covers the object
MAX_SIDE = 1536
MAX_DRAWN = 4096  # pixels of the longer side; drawing takes a hundred bytes for each pixel


def zoom_for(height, width):
    """Return the integer factor by which to enlarge an image of this size before drawing."""
    return max(1, min(-(-MIN_SIDE // min(height, width)), MAX_SIDE // max(height, width)))


def enlarge_image(image, zoom):
    """Repeat each pixel: (height, width, ...) -> (height * zoom, width * zoom, ...)."""
    return image.repeat(zoom, 0).repeat(zoom, 1)


def enlarge_sample(sample, zoom):
    """Enlarge the ground truth and the prediction of an mmdet or mmseg data sample ``zoom`` times, in place."""
    for name in {'gt_instances', 'pred_instances'}.intersection(sample.keys()):
        instances = sample.get(name)
        if 'bboxes' in instances:
            instances.bboxes = instances.bboxes * zoom
        masks = instances.get('masks')
        if masks is None:
            continue
        if isinstance(masks, torch.Tensor):
            instances.masks = _repeat(masks, zoom)
        else:  # mmdet's BitmapMasks
            instances.masks = masks.resize((masks.height * zoom, masks.width * zoom))
    for name in {'gt_sem_seg', 'pred_sem_seg'}.intersection(sample.keys()):
        # a new PixelData, because an existing one refuses maps of another size
        sample.set_data({name: PixelData(data=_repeat(sample.get(name).data, zoom))})


def stride_for(height, width):
    """Return the integer by which the sides of an image of this size are divided before drawing."""
    return max(1, -(-max(height, width) // MAX_DRAWN))


def shrink_image(image, stride):
    """Take means of pixels: (height, width, ...) -> (ceil(height / stride), ceil(width / stride), ...)."""
    height, width = (-(-side // stride) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def shrink_sample(sample, stride):
    """Divide the sizes in the ground truth and the prediction of an mmdet or mmseg data sample by ``stride``, in place.

    Of masks and maps, one of ``stride`` rows and columns is kept, without a copy.
    """
    for name in {'gt_instances', 'pred_instances'}.intersection(sample.keys()):
        instances = sample.get(name)
        if 'bboxes' in instances:
            instances.bboxes = instances.bboxes / stride
        masks = instances.get('masks')
        if isinstance(masks, torch.Tensor):
            instances.masks = masks[..., ::stride, ::stride]
        elif masks is not None:
            instances.masks = masks.resize((-(-masks.height // stride), -(-masks.width // stride)))
    for name in {'gt_sem_seg', 'pred_sem_seg'}.intersection(sample.keys()):
        sample.set_data({name: PixelData(data=sample.get(name).data[..., ::stride, ::stride])})


def _repeat(tensor, zoom):
    return tensor.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
