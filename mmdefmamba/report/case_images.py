"""The pictures of a report: reading them, shrinking them and writing them into the page."""

import base64

import cv2
import mmcv

from ..visualization.inputs import read_entry, reads_images
from ..visualization.pictures import to_picture

LARGE = 800  # pixels; an image with a longer side is shrunk
LOSSLESS = 64  # pixels; up to this side an image is a PNG and is shown with sharp pixels


def load_image(dataset, info):
    """Return the image of a dataset entry as a picture, (height, width, 3), uint8, RGB.

    The image is read by the step of the dataset's pipeline that reads images. Its channels and values are shown as
    :func:`~mmdefmamba.visualization.pictures.to_picture` says. A dataset with images in memory is expected to hold RGB,
    as mmpretrain's CIFAR does.

    Args:
        dataset: the dataset of the test.
        info: the result of its ``get_data_info``.

    Raises:
        OSError: the image cannot be read.
    """
    if info.get('img') is not None:
        return to_picture(info['img'], rgb=True)
    steps = getattr(getattr(_innermost(dataset), 'pipeline', None), 'transforms', ())
    readers = [step for step in steps if reads_images(type(step).__name__)]
    if not readers:
        return mmcv.imread(info['img_path'], channel_order='rgb')
    return to_picture(read_entry(readers[0], info))


def _innermost(dataset):
    """Return the dataset inside of wrappers; of several that are joined, the first."""
    while hasattr(dataset, 'dataset') or hasattr(dataset, 'datasets'):
        dataset = dataset.dataset if hasattr(dataset, 'dataset') else dataset.datasets[0]
    return dataset


def data_uri(image):
    """Encode an RGB image, (height, width, 3) uint8, as a data URI for the ``src`` of an ``img`` element."""
    kind, options = '.png', []
    if max(image.shape[:2]) > LOSSLESS:
        kind, options = '.webp', [cv2.IMWRITE_WEBP_QUALITY, 85]
    written, data = cv2.imencode(kind, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not written:
        raise OSError(f'OpenCV cannot encode an image of {image.shape} as {kind}')
    return f'data:image/{kind[1:]};base64,{base64.b64encode(data).decode()}'


def shrink(image, side=LARGE):
    """Shrink an image so that its longer side has at most ``side`` pixels."""
    factor = side / max(image.shape[:2])
    if factor >= 1:
        return image
    height, width = (max(1, round(length * factor)) for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
