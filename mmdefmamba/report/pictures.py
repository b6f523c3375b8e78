"""Pictures in a report: read, drawn upon by OpenMMLab's visualizers, and written into the page."""

import base64

import cv2
import mmcv
import numpy as np
import torch
from mmengine.registry import VISUALIZERS
from mmengine.structures import InstanceData, PixelData

# Pixels of the longer side: smaller images are enlarged before text is drawn on them, larger ones shrunk afterwards.
SMALL, LARGE = 384, 800
LOSSLESS = 64  # pixels: up to this size as PNG, and shown with hard pixels


def load_image(info):
    """The image of a data set's entry as RGB, (height, width, 3) uint8.

    Data sets that keep images in memory keep them as RGB, as mmpretrain's CIFAR does.
    """
    if info.get('img') is not None:
        return np.ascontiguousarray(info['img'])
    return mmcv.imread(info['img_path'], channel_order='rgb')


def data_uri(image):
    """An RGB image, (height, width, 3) uint8, as the text that an ``img`` element takes for its ``src``."""
    kind, options = '.png', []
    if max(image.shape[:2]) > LOSSLESS:
        kind, options = '.webp', [cv2.IMWRITE_WEBP_QUALITY, 85]
    written, data = cv2.imencode(kind, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not written:
        raise OSError(f'OpenCV cannot encode an image of {image.shape} as {kind}')
    return f'data:image/{kind[1:]};base64,{base64.b64encode(data).decode()}'


def shrink(image, side=LARGE):
    """An image whose longer side is at most ``side``."""
    factor = side / max(image.shape[:2])
    if factor >= 1:
        return image
    height, width = (max(1, round(length * factor)) for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def draw_truth_and_prediction(visualizer, image, sample, **options):
    """Draw the two halves of a data sample.

    Args:
        visualizer: mmdet's or mmseg's, with ``dataset_meta`` set.
        image: RGB, (height, width, 3) uint8.
        sample: DetDataSample or SegDataSample of the image's size.
        **options: for the visualizer's ``add_datasample``.

    Returns:
        Two RGB images, truth and prediction.
    """
    drawn = []
    for truth in (True, False):
        visualizer.add_datasample('case', image, sample, draw_gt=truth, draw_pred=not truth, **options)
        drawn.append(shrink(visualizer.get_image()))
    return drawn


def build_visualizer(kind, name, dataset_meta, **options):
    """A visualizer that writes nothing by itself; ``options`` are its own."""
    visualizer = VISUALIZERS.build(dict(type=kind, name=name, **options))
    visualizer.dataset_meta = dataset_meta
    return visualizer


def enlarge_small(image, sample):
    """Make a small image, and what a data sample says of it, large enough for text; gives both, the sample changed."""
    zoom = -(-SMALL // max(image.shape[:2]))  # rounded up
    enlarge(sample, zoom)
    return np.ascontiguousarray(image.repeat(zoom, 0).repeat(zoom, 1)), sample


def enlarge(sample, zoom):
    """Make what a DetDataSample or SegDataSample says of its image fit one ``zoom`` times as large, in place."""
    for name in ('gt_instances', 'pred_instances'):
        if name in sample:
            _enlarge_instances(sample.get(name), zoom)
    for name in ('gt_sem_seg', 'pred_sem_seg'):
        if name in sample:
            data = sample.get(name).data.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
            # a new PixelData: one holds to the size of its first map
            sample.set_data({name: PixelData(data=data)})


def _enlarge_instances(instances: InstanceData, zoom):
    instances.bboxes = instances.bboxes * zoom
    if 'masks' not in instances:
        return
    masks = instances.masks
    if isinstance(masks, torch.Tensor):
        instances.masks = masks.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
    else:
        instances.masks = masks.resize((masks.height * zoom, masks.width * zoom))
