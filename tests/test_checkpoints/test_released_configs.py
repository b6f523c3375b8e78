import runpy
from pathlib import Path

import pytest
from mmengine import Config

CONFIGS = Path(__file__).parents[2] / 'configs'
BILINEAR = (
    'train_pipeline.1.interpolation',
    'train_pipeline.3.hparams.interpolation',
    'test_pipeline.1.interpolation',
    'train_dataloader.dataset.pipeline.1.interpolation',
    'train_dataloader.dataset.pipeline.3.hparams.interpolation',
    'val_dataloader.dataset.pipeline.1.interpolation',
    'test_dataloader.dataset.pipeline.1.interpolation',
)


def leaves(node, path=''):
    if isinstance(node, (dict, list, tuple)) and node:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        # MMEngine stores in _scope_ from which library a part of the config was inherited
        items = [(f'{path}.{key}' if path else str(key), value) for key, value in items if key != '_scope_']
        return {name: leaf for key, value in items for name, leaf in leaves(value, key).items()}
    return {path: node}


@pytest.mark.parametrize('size', 'tsb')
def test_released_classification_configs_differ_only_in_formulation_and_interpolation(size):
    name = f'classification/defmamba_{size}_in1k'
    released = leaves(Config.fromfile(CONFIGS / f'{name}_released.py').to_dict())
    paper = leaves(Config.fromfile(CONFIGS / f'{name}.py').to_dict())
    changed = {key: released.get(key) for key in released.keys() | paper.keys() if released.get(key) != paper.get(key)}
    assert changed == {'model.backbone.formulation': 'released'} | dict.fromkeys(BILINEAR, 'bilinear')


@pytest.mark.parametrize('size', 'tsb')
@pytest.mark.parametrize('name', ['detection/mask_rcnn_defmamba_{}_1x', 'segmentation/upernet_defmamba_{}_160k'])
def test_released_downstream_configs_differ_only_in_formulation(name, size):
    path = CONFIGS / f'{name.format(size)}_released.py'
    paper = path.with_name(f'{Path(name).name.format(size)}.py')
    assert paper.exists()
    # read as plain Python, because MMEngine needs seconds to find what these inherit from mmdet and mmseg
    config = {key: value for key, value in runpy.run_path(path).items() if not key.startswith('__')}
    assert config == {'_base_': f'./{paper.name}', 'model': {'backbone': {'formulation': 'released'}}}
