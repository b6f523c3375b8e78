"""Small images large enough to draw names and boxes on."""

import torch
from mmengine.structures import PixelData

MIN_SIDE = 480  # drawn on less, a name covers what it names
MAX_SIDE = 1536


def zoom_for(height, width):
    """The whole number of times to enlarge an image of this size for drawing."""
    return max(1, min(-(-MIN_SIDE // min(height, width)), MAX_SIDE // max(height, width)))


def enlarge_image(image, zoom):
    """Repeat each pixel: (height, width, ...) -> (height * zoom, width * zoom, ...)."""
    return image.repeat(zoom, 0).repeat(zoom, 1)


def enlarge_sample(sample, zoom):
    """Make the truth and the prediction of a data sample of mmdet or mmseg ``zoom`` times as large, in place."""
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
        # a new PixelData: one holds to the size of its first map
        sample.set_data({name: PixelData(data=_repeat(sample.get(name).data, zoom))})


def _repeat(tensor, zoom):
    return tensor.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
