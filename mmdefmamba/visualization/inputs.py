"""Reading images as a network's test does, and turning network inputs back into images."""

import torch
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from ..config_tree import innermost_dataset
from ..files import existing_file

#: Attributes by which the data preprocessors of the three libraries say that they convert BGR to RGB.
_TURNS_COLOURS = ('to_rgb', '_channel_conversion', 'channel_conversion')
LOAD = 'LoadImageFromFile'


def load_images(cfg, paths):
    """Read image files with the test pipeline of a config, without its annotations.

    Args:
        cfg: an MMEngine Config of mmpretrain, mmdet or mmseg with a ``test_dataloader``.
        paths: paths of the image files.

    Returns:
        The input of a model's ``data_preprocessor``: a dict of ``inputs``, a list of (3, height, width) uint8 tensors,
        and ``data_samples``.

    Raises:
        FileNotFoundError: a file does not exist.
    """
    paths = [existing_file(path, 'image') for path in paths]
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        pipeline = Compose(image_pipeline(cfg))
        items = [pipeline(dict(img_path=str(path), img_id=i, seg_fields=[])) for i, path in enumerate(paths)]
    return {name: [item[name] for item in items] for name in ('inputs', 'data_samples')}


def image_pipeline(cfg):
    """Return the steps of a config's test pipeline that images need: files are read, annotations are not loaded."""
    dataset = innermost_dataset(cfg.test_dataloader.dataset)
    kinds = [step['type'].split('.')[-1] for step in dataset.pipeline]
    steps = [
        step for step, kind in zip(dataset.pipeline, kinds, strict=True) if kind == LOAD or not kind.startswith('Load')
    ]
    # a dataset with its images in memory has no step that reads files
    return steps if LOAD in kinds else [dict(type=LOAD), *steps]


def network_inputs(model, data):
    """Preprocess images as the model's test does.

    Args:
        model: a classifier, detector or segmentor.
        data: the input of its ``data_preprocessor``, see :func:`load_images`.

    Returns:
        ``inputs``, (B, 3, height, width) float, on the model's device, and the same images as :func:`rgb_images`.
    """
    with torch.no_grad():
        inputs = model.data_preprocessor(data, False)['inputs']
    return inputs, rgb_images(inputs, model.data_preprocessor)


def rgb_images(inputs, data_preprocessor):
    """Convert preprocessed images back to pictures.

    The padding of a batch is kept, because the network sees it and its maps cover it.

    Args:
        inputs: (B, 3, height, width) or (B, 1, height, width), float.
        data_preprocessor: the one of mmpretrain, mmdet or mmseg that made ``inputs``.

    Returns:
        (B, height, width, 3), uint8, RGB, an array.
    """
    images = inputs.detach().float().cpu()
    if getattr(data_preprocessor, 'mean', None) is not None:
        images = images * data_preprocessor.std.cpu() + data_preprocessor.mean.cpu()
    if not any(getattr(data_preprocessor, name, False) for name in _TURNS_COLOURS):
        images = images.flip(1)
    images = images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return images.expand(*images.shape[:3], 3).numpy()


def test_dataloader(cfg):
    """Build the test dataloader of a config as the Runner does, in the scope of that config."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
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
