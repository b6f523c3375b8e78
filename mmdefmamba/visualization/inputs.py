"""Reading images as a network's test does, and turning network inputs back into images."""

import re
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS, DefaultScope
from mmengine.runner import Runner

from ..config_tree import innermost_dataset, library_of, type_name
from ..files import existing_file, shown
from ..guards.damaged_images import image_damage
from ..guards.image_size import MAX_PIXELS, check_pixels, check_resized
from .pictures import to_picture

#: Attributes by which the data preprocessors of the three libraries say that they convert BGR to RGB.
_TURNS_COLOURS = ('to_rgb', '_channel_conversion', 'channel_conversion')
LOAD = 'LoadImageFromFile'
# What the names of pipeline steps contain that read files, and of those among them that read no image.
_READS, _NO_IMAGE = re.compile('Load|Read|^load|^read'), re.compile('annotation|proposal|label|mask', re.IGNORECASE)

# A file has at most these bytes per pixel, four values of 64 bits, and as many more for what is no pixel.
_BYTES_PER_PIXEL, _FREE_BYTES = 32, 2**26


def load_images(cfg, images):
    """Read images with the test pipeline of a config, without its annotations.

    Args:
        cfg: an MMEngine Config of mmpretrain, mmdet or mmseg with a ``test_dataloader``.
        images: paths of image files, or images as :class:`ImageReader` reads them, (height, width[, channels]).

    Returns:
        The input of a model's ``data_preprocessor``: a dict of ``inputs``, a list of (channels, height, width) tensors
        with the dtype of the images, and ``data_samples``.

    Raises:
        FileNotFoundError: a file does not exist.
        OSError: a file is not a complete image.
        ValueError: the pipeline would make a far larger image of one of them, of gigabytes.
    """
    reader = ImageReader(cfg)
    images = [image if isinstance(image, np.ndarray) else reader(existing_file(image, 'image')) for image in images]
    for image in images:
        check_resized(image_pipeline(cfg), *image.shape[:2])
    with _scope_of(cfg):
        pipeline = Compose(image_pipeline(cfg))
        items = [
            pipeline(dict(img=image, img_shape=size, ori_shape=size, img_path=None, img_id=i, seg_fields=[]))
            for i, image in enumerate(images)
            for size in [image.shape[:2]]
        ]
    return {name: [item[name] for item in items] for name in ('inputs', 'data_samples')}


class ImageReader:
    """Reads image files as the test of a config reads them.

    The first step of the test pipeline whose name contains Load or Read, and that is not about annotations, reads the
    images. Without such a step, because the dataset has its images in memory, files are read as ``LoadImageFromFile``
    reads them.

    Args:
        cfg: an MMEngine Config with a ``test_dataloader``.
        max_pixels: the largest image that is decoded, in pixels; None for no limit.
    """

    def __init__(self, cfg, max_pixels=MAX_PIXELS):
        self.max_pixels = max_pixels
        steps = [step for step in _test_pipeline(cfg) if reads_images(type_name(step))]
        with _scope_of(cfg):
            self._step = TRANSFORMS.build(dict(steps[0] if steps else {'type': LOAD}))

    def __call__(self, path):
        """Return the image of a file, (height, width[, channels]); colours are BGR unless the config reads them as RGB.

        Raises:
            OSError: as :func:`read_entry`.
        """
        return read_entry(self._step, dict(img_path=str(path)), self.max_pixels)


def read_entry(step, info, max_pixels=None):
    """Return the image of an entry of a dataset, read by a step of its pipeline.

    Args:
        step: a transform that reads images.
        info: a dict with what the transform needs, such as ``img_path``. It is not changed.
        max_pixels: the largest image that is decoded, in pixels; None for no limit.

    Raises:
        OSError: the image cannot be read, is truncated, is not an image, or has too many pixels. The message contains
            the path.
    """
    path, size = info.get('img_path'), ''
    try:
        if isinstance(path, str) and '://' not in path:
            content = _content(Path(path), max_pixels)
            damage, size = image_damage(content), f'these {len(content)} bytes'
            if damage:
                raise OSError(damage)
            check_pixels(content, max_pixels, all_pages=getattr(step, 'imdecode_backend', None) == 'tifffile')
        results = step(dict(info))
    except MemoryError as error:
        raise OSError(f'{shown(path)} could not be read: there is not enough memory for it') from error
    except cv2.error as error:
        raise OSError(f'{shown(path)} could not be read: {error.err or error}') from error
    except AssertionError as error:  # mmcv's, for what its decoder returns as None
        raise OSError(f'{shown(path)} could not be read: no decoder can read {size or "it"} as an image') from error
    except OSError as error:
        # an error of the file system already contains the path
        raise error if error.filename else OSError(f'{shown(path)} could not be read: {error}') from error
    if results is None:
        raise OSError(f'{shown(path)} could not be read: {type(step).__name__} returns nothing for it')
    return results['img']


def _content(path, max_pixels):
    """Return the bytes of a file; without reading it, refuse one that is no plain file or larger than its pixels."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError('it is no plain file')  # a device or a pipe may never end
    size, limit = path.stat().st_size, None if max_pixels is None else _BYTES_PER_PIXEL * max_pixels + _FREE_BYTES
    if limit is not None and size > limit:
        raise OSError(f'the file has {size:,} bytes, the limit is {limit:,} for {max_pixels:,} pixels (max_pixels)')
    return path.read_bytes()


def reads_images(kind):
    """Return whether the name of a pipeline step says that it reads images."""
    return bool(_READS.search(kind)) and not _NO_IMAGE.search(kind)


def image_pipeline(cfg):
    """Return the steps of a config's test pipeline for an image that has been read: no step reads files."""
    return [step for step in _test_pipeline(cfg) if not _READS.search(type_name(step))]


def _test_pipeline(cfg):
    return innermost_dataset(cfg.test_dataloader.dataset).pipeline


def _scope_of(cfg):
    return DefaultScope.overwrite_default_scope(library_of(cfg))


def network_inputs(model, data):
    """Preprocess images as the model's test does.

    Args:
        model: a classifier, detector or segmentor.
        data: the input of its ``data_preprocessor``, see :func:`load_images`.

    Returns:
        ``inputs``, (B, channels, height, width) float, on the model's device, and :func:`rgb_images` of them.
    """
    with torch.no_grad():
        inputs = model.data_preprocessor(data, False)['inputs']
    return inputs, rgb_images(inputs, model.data_preprocessor)


def rgb_images(inputs, data_preprocessor):
    """Convert preprocessed images back to pictures.

    The padding of a batch is kept, because the network sees it and its maps cover it.

    Args:
        inputs: (B, channels, height, width), float.
        data_preprocessor: the one of mmpretrain, mmdet or mmseg that made ``inputs``.

    Returns:
        (B, height, width, 3), uint8, RGB, an array; see :func:`~mmdefmamba.visualization.pictures.to_picture` for
        images that do not have three channels.
    """
    images = inputs.detach().float().cpu()
    if getattr(data_preprocessor, 'mean', None) is not None:
        images = images * data_preprocessor.std.cpu() + data_preprocessor.mean.cpu()
    # the preprocessors change the order of three channels only
    turned = any(getattr(data_preprocessor, name, False) for name in _TURNS_COLOURS)
    if images.min() > -0.5 and images.max() < 255.5:
        images = images.clamp(0, 255)  # rounding can move 0 and 255 a little out of the range
    return np.stack([to_picture(image.permute(1, 2, 0).numpy(), turned and len(image) == 3) for image in images])


def test_dataloader(cfg):
    """Build the test dataloader of a config as the Runner does, in the scope of that config."""
    with _scope_of(cfg):
        return Runner.build_dataloader(cfg.test_dataloader)


def dataset_images(dataloader, count):
    """Return images that are evenly spread over a dataset.

    Each image is a batch of its own, because test images can differ in size.

    Args:
        dataloader: a PyTorch dataloader; its dataset is read in this process.
        count: number of images; a smaller dataset gives all of its images.

    Returns:
        A list of inputs of a model's ``data_preprocessor``.

    Raises:
        ValueError: ``count`` is not positive, or the dataset is empty.
    """
    dataset, collate = dataloader.dataset, dataloader.collate_fn
    if count < 1 or not len(dataset):
        raise ValueError(f'cannot take {count} images of {type(dataset).__name__} with {len(dataset)} items')
    count = min(count, len(dataset))
    return [collate([dataset[i * len(dataset) // count]]) for i in range(count)]
