"""Images as a network is given them, and back."""

import torch
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from ..config_tree import innermost_dataset
from ..files import existing_file

#: What the three libraries' data preprocessors call "colours are turned from BGR to RGB".
_TURNS_COLOURS = ('to_rgb', '_channel_conversion', 'channel_conversion')
LOAD = 'LoadImageFromFile'


def load_images(cfg, paths):
    """Read image files with the test pipeline of a config, without its annotations.

    Args:
        cfg: an MMEngine Config of mmpretrain, mmdet or mmseg with a ``test_dataloader``.
        paths: of image files.

    Returns:
        What a model's ``data_preprocessor`` takes: a dict of ``inputs``, a list of (3, height, width) uint8 tensors,
        and ``data_samples``.

    Raises:
        FileNotFoundError: there is no such file.
    """
    paths = [existing_file(path, 'image') for path in paths]
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        pipeline = Compose(image_pipeline(cfg))
        items = [pipeline(dict(img_path=str(path), img_id=i, seg_fields=[])) for i, path in enumerate(paths)]
    return {name: [item[name] for item in items] for name in ('inputs', 'data_samples')}


def image_pipeline(cfg):
    """The test pipeline of a config, cut down to what images need: annotations are not loaded, files are read."""
    dataset = innermost_dataset(cfg.test_dataloader.dataset)
    kinds = [step['type'].split('.')[-1] for step in dataset.pipeline]
    steps = [
        step for step, kind in zip(dataset.pipeline, kinds, strict=True) if kind == LOAD or not kind.startswith('Load')
    ]
    # images of a dataset that holds them in memory are read by nobody
    return steps if LOAD in kinds else [dict(type=LOAD), *steps]


def network_inputs(model, data):
    """Preprocess images as the model's own test does.

    Args:
        model: a classifier, detector or segmentor.
        data: what its ``data_preprocessor`` takes, see :func:`load_images`.

    Returns:
        ``inputs``, (B, 3, height, width) float, on the model's device, and the same images as :func:`rgb_images`.
    """
    with torch.no_grad():
        inputs = model.data_preprocessor(data, False)['inputs']
    return inputs, rgb_images(inputs, model.data_preprocessor)


def rgb_images(inputs, data_preprocessor):
    """Preprocessed images as pictures: (B, height, width, 3), uint8, RGB, an array.

    Where a batch is padded the padding is there, too: the network sees it, and its maps cover it.

    Args:
        inputs: (B, 3, height, width) or (B, 1, height, width), float.
        data_preprocessor: what made them, of mmpretrain, mmdet or mmseg.
    """
    images = inputs.detach().float().cpu()
    if getattr(data_preprocessor, 'mean', None) is not None:
        images = images * data_preprocessor.std.cpu() + data_preprocessor.mean.cpu()
    if not any(getattr(data_preprocessor, name, False) for name in _TURNS_COLOURS):
        images = images.flip(1)
    images = images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return images.expand(*images.shape[:3], 3).numpy()


def test_dataloader(cfg):
    """The test data of a config; built as the Runner builds them, whatever scope is the default now."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        return Runner.build_dataloader(cfg.test_dataloader)


def dataset_images(dataloader, count):
    """Images of a data set, evenly spread over it, each as a batch of its own: those of a test can differ in size.

    Args:
        dataloader: of PyTorch; its data set is read here, in this process.
        count: how many; all, where the data set has fewer.

    Returns:
        A list of what a model's ``data_preprocessor`` takes.

    Raises:
        ValueError: ``count`` is not positive, or the data set is empty.
    """
    dataset, collate = dataloader.dataset, dataloader.collate_fn
    if count < 1 or not len(dataset):
        raise ValueError(f'cannot take {count} images of {type(dataset).__name__} with {len(dataset)} items')
    count = min(count, len(dataset))
    return [collate([dataset[i * len(dataset) // count]]) for i in range(count)]
