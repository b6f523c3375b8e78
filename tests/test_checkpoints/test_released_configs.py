"""The configs of the authors' recipes: what they change, and the weight decay of each tensor."""

from pathlib import Path

import pytest
import torch
from mmengine import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import mmdefmamba  # noqa: F401
from mmdefmamba.converters import export_released
from mmdefmamba.scans import DeformableScan

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


# Tensors that our recipes exempt from weight decay and that are neither 1-D nor biases
OURS = ('A_log', 'dt_proj_bias', 'offset_bias.table')
SCANS = ['raster', 'raster_reverse', dict(type='deformable', key_dtype='float32', point_dtype='float32')]


def differences(name):
    """Return the keys in which a released config differs from the one that it inherits, with their values."""
    released, paper = (leaves(Config.fromfile(CONFIGS / f'{name}{end}.py').to_dict()) for end in ('_released', ''))
    return {
        key: released.get(key)
        for key in released.keys() | paper.keys()
        if released.get(key) != paper.get(key) and not key.startswith('released_')
    }


def exempt(name, weight, task):
    """Return whether the authors' code lets a tensor take no weight decay: their rules, for their names."""
    if task == 'classification':
        return weight.ndim == 1 or name.endswith('.bias')
    return 'norm' in name


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*/*_released.py')), ids=lambda path: path.stem)
def test_each_tensor_has_the_weight_decay_of_the_authors_code(path):
    cfg = Config.fromfile(path)
    task = path.parent.name
    init_default_scope({'classification': 'mmpretrain', 'detection': 'mmdet', 'segmentation': 'mmseg'}[task])
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    parameters = dict(model.named_parameters())
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decays = {id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    assert len(decays) == len(parameters)
    theirs = export_released(parameters)
    expected = {
        name: 0 if exempt(name, weight, task) else cfg.optim_wrapper.optimizer.weight_decay
        for name, weight in theirs.items()
    }
    assert {name: decays[id(weight)] for name, weight in theirs.items()} == expected
    # the tensors in which the authors' rules differ from ours, by their names
    decayed = {name.split('.op.')[-1] for name, decay in expected.items() if decay}
    assert {'A_logs', 'dt_projs_bias', 'DS.rpe_table'} <= decayed
    assert ({'Ds', 'DS.conv_offset.ln.weight'} <= decayed) == (task != 'classification')


def test_the_default_recipes_exempt_more_tensors():
    """180 of the 394 tensors of Mask R-CNN small have another weight decay in the authors' code."""
    decays = []
    for name in ('mask_rcnn_defmamba_s_1x', 'mask_rcnn_defmamba_s_1x_released'):
        cfg = Config.fromfile(CONFIGS / f'detection/{name}.py')
        cfg.model.backbone.formulation = 'released'
        init_default_scope('mmdet')
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
        of = {id(p): group['weight_decay'] for group in groups for p in group['params']}
        decays.append([of[id(p)] for p in model.parameters()])
    assert len(decays[0]) == 394
    assert sum(ours != theirs for ours, theirs in zip(*decays, strict=True)) == 180


@pytest.mark.parametrize('name', ['classification/defmamba_t_in1k', 'detection/mask_rcnn_defmamba_t_1x'])
def test_float16_keys_and_points_on_request(name):
    cfg = Config.fromfile(CONFIGS / f'{name}_released.py')
    scan = 'model.backbone.scans.2'
    cfg.merge_from_dict({f'{scan}.key_dtype': 'float16', f'{scan}.point_dtype': 'float16'})
    with torch.device('meta'):
        model = MODELS.build(cfg.model.backbone)
    scans = [module for module in model.modules() if isinstance(module, DeformableScan)]
    assert len(scans) == 11
    assert {(scan.key_dtype, scan.point_dtype) for scan in scans} == {(torch.float16, torch.float16)}


@pytest.mark.parametrize('size', 'tsb')
def test_released_classification_configs_differ_in_formulation_weight_decay_and_interpolation(size):
    decays = {f'optim_wrapper.paramwise_cfg.custom_keys.{name}.decay_mult': None for name in OURS}
    assert differences(f'classification/defmamba_{size}_in1k') == {
        'model.backbone.formulation': 'released',
        **leaves(SCANS, 'model.backbone.scans'),
        **decays,
        **dict.fromkeys(BILINEAR, 'bilinear'),
    }


@pytest.mark.parametrize('name', ['detection/mask_rcnn_defmamba_{}_1x', 'segmentation/upernet_defmamba_{}_160k'])
def test_released_downstream_configs_differ_in_formulation_start_and_weight_decay(name):
    found = differences(name.format('s'))
    found = {key: value for key, value in found.items() if not key.startswith('optim_wrapper.paramwise_cfg')}
    assert found == {
        'model.backbone.formulation': 'released',
        'model.backbone.init_cfg.weights': 'raw',
        'model.backbone.init_cfg.output_norms': 'fresh',
        **leaves(SCANS, 'model.backbone.scans'),
    }
    small, *others = ((CONFIGS / f'{name.format(size)}_released.py').read_text() for size in 'stb')
    base = Path(name).name
    assert others == [small.replace(base.format('s'), base.format(size)) for size in 'tb']
