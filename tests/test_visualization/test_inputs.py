from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch.utils.data import DataLoader

from mmdefmamba.visualization.inputs import dataset_images, image_pipeline, load_images, network_inputs

CONFIGS = Path(__file__).parents[2] / 'configs'
PICO = {
    'mmpretrain': 'classification/defmamba_pico_digits.py',
    'mmdet': 'detection/mask_rcnn_defmamba_pico_digits.py',
    'mmseg': 'segmentation/upernet_defmamba_pico_digits.py',
}


def preprocessor(cfg):
    """Build a module that has only the data preprocessor of a config."""
    scope = cfg.default_scope
    data_preprocessor = dict(cfg.get('data_preprocessor') or cfg.model.data_preprocessor)
    data_preprocessor.setdefault('type', 'ClsDataPreprocessor')
    with DefaultScope.overwrite_default_scope(scope):
        model = torch.nn.Module()
        model.data_preprocessor = MODELS.build(data_preprocessor)
    return model


@pytest.fixture
def write(tmp_path):
    """``write(image)`` writes an RGB image and returns its path."""

    def write(image, name='image.png'):
        cv2.imwrite(str(tmp_path / name), image[..., ::-1])
        return tmp_path / name

    return write


@pytest.mark.parametrize('scope', list(PICO))
def test_pictures_equal_the_image_file(scope, write):
    cfg = Config.fromfile(CONFIGS / PICO[scope])
    side = 32 if scope == 'mmpretrain' else 128  # the pipelines resize to this side
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    inputs, pictures = network_inputs(preprocessor(cfg), load_images(cfg, [write(image)]))
    assert inputs.shape == (1, 3, side, side)
    assert inputs.dtype == torch.float32
    assert inputs.abs().max() < 3  # normalised
    assert pictures.dtype == np.uint8
    assert np.array_equal(pictures[0], image)


@pytest.mark.parametrize('config', ['classification/defmamba_t_in1k', 'detection/mask_rcnn_defmamba_t_1x'])
def test_large_configs_read_and_pad_images(config, write):
    cfg = Config.fromfile(CONFIGS / f'{config}.py')
    image = np.full((50, 90, 3), (250, 120, 10), np.uint8)
    inputs, (picture,) = network_inputs(preprocessor(cfg), load_images(cfg, [write(image)]))
    assert picture.shape[:2] == inputs.shape[2:]
    assert (picture[:200, :200] == (250, 120, 10)).all()
    if 'detection' in config:
        assert inputs.shape == (1, 3, 768, 1344)  # 741 x 1333, padded to multiples of 32
        # padding is 0 after normalisation, which is the mean colour
        assert np.abs(picture[-1, 0] - np.array(cfg.model.data_preprocessor.mean)).max() <= 0.5


def test_annotations_are_not_loaded():
    for name, expected in (('mmdet', ['Resize', 'PackDetInputs']), ('mmpretrain', ['Resize', 'PackInputs'])):
        assert [step['type'] for step in image_pipeline(Config.fromfile(CONFIGS / PICO[name]))] == expected
    steps = ['LoadTiff', 'Crop', 'mmseg.LoadAnnotations', 'ThreadPool']
    nested = dict(type='R', dataset=dict(pipeline=[dict(type=step) for step in steps]))
    nested = Config(dict(test_dataloader=dict(dataset=nested)))
    assert [step['type'] for step in image_pipeline(nested)] == ['Crop', 'ThreadPool']


def test_missing_image_is_refused_with_its_path():
    cfg = Config.fromfile(CONFIGS / PICO['mmpretrain'])
    with pytest.raises(FileNotFoundError, match=r'image no/such\.png does not exist'):
        load_images(cfg, ['no/such.png'])


def test_images_are_spread_over_the_data():
    loader = DataLoader(range(10), collate_fn=tuple)
    assert dataset_images(loader, 3) == [(0,), (3,), (6,)]
    assert dataset_images(loader, 99) == [(i,) for i in range(10)]
    with pytest.raises(ValueError, match='cannot take 0 images of range with 10 items'):
        dataset_images(loader, 0)
    with pytest.raises(ValueError, match='with 0 items'):
        dataset_images(DataLoader([], collate_fn=tuple), 1)
