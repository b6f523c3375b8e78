"""Pictures in a report: read, drawn upon by OpenMMLab's visualizers, and written into the page."""

import base64

import cv2
import mmcv
import numpy as np
from mmengine.registry import VISUALIZERS

LARGE = 800  # pixels of the longer side: what is larger is shrunk
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
