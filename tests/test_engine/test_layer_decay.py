"""Layer-wise decay of the learning rate in all three libraries: the rate and the decay of each parameter."""

import copy
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

import mmdefmamba

CONFIGS = Path(__file__).parents[2] / 'configs'
NAMES = {
    'mmpretrain': 'classification/defmamba_pico_digits',
    'mmdet': 'detection/mask_rcnn_defmamba_pico_digits',
    'mmseg': 'segmentation/upernet_defmamba_pico_digits',
}
RATE, LR, DECAY = 0.5, 0.016, 0.05


def build(scope, **paramwise):
    """Return the model of a library, and the settings of each parameter by name, with layer-wise decay."""
    cfg = Config.fromfile(CONFIGS / f'{NAMES[scope]}.py')
    cfg.model.backbone.update(arch=dict(embed_dims=(8, 16, 32, 64), depths=(1, 2, 1, 1)))
    if scope == 'mmpretrain':
        cfg.model.head.in_channels = 64
    model = mmdefmamba.get_model(cfg) if scope == 'mmpretrain' else build_other(cfg, scope)
    wrapper = copy.deepcopy(cfg.optim_wrapper)
    wrapper.optimizer.update(lr=LR, weight_decay=DECAY)
    wrapper.constructor = 'LayerDecayOptimWrapperConstructor'
    wrapper.paramwise_cfg.update(layer_decay_rate=RATE, **paramwise)
    return model, wrapper, settings(model, wrapper, scope)


def build_other(cfg, scope):
    necks = dict(neck=('in_channels',)) if scope == 'mmdet' else dict(decode_head=('in_channels',))
    for part, keys in necks.items():
        for key in keys:
            cfg.model[part][key] = [8, 16, 32, 64]
    if scope == 'mmseg':
        cfg.model.auxiliary_head.in_channels = 32
    return mmdefmamba.get_model(cfg)


def settings(model, wrapper, scope):
    names = {parameter: name for name, parameter in model.named_parameters()}
    with DefaultScope.overwrite_default_scope(scope):
        groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    return {names[parameter]: group for group in groups for parameter in group['params']}


def depth(name):
    """The depth of a parameter of the network above, of 7, worked out from its name."""
    blocks = {'0.0': 1, '1.0': 2, '1.1': 3, '2.0': 4, '3.0': 5}
    if name.startswith('backbone.stem.'):
        return 0
    if block := re.match(r'backbone\.stages\.(\d\.\d)\.', name):
        return blocks[block[1]]
    if stage := re.match(r'backbone\.downsamples\.(\d)\.', name):
        return {'0': 2, '1': 4, '2': 5}[stage[1]]  # that of the block after it
    return 6  # the norms of the output, neck and heads


@pytest.mark.parametrize('scope', list(NAMES))
def test_each_parameter_has_its_rate_and_decay(scope):
    model, _, found = build(scope)
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert {depth(name) for name in found} == set(range(7))
    for name, parameter in model.named_parameters():
        assert found[name]['lr'] == pytest.approx(LR * RATE ** (6 - depth(name)), rel=1e-12), name
        no_decay = parameter.ndim == 1 or re.search(r'A_log|dt_proj_bias|offset_bias\.table', name)
        assert found[name]['weight_decay'] == (0 if no_decay else DECAY), name


def test_rates_are_those_of_the_constructor_of_mmpretrain():
    import mmpretrain.engine  # noqa: F401  registers it

    model, wrapper, found = build('mmpretrain')
    wrapper.constructor = 'LearningRateDecayOptimWrapperConstructor'
    expected = settings(model, wrapper, 'mmpretrain')
    assert found.keys() == expected.keys()
    for name, group in found.items():
        assert (group['lr'], group['weight_decay']) == (expected[name]['lr'], expected[name]['weight_decay']), name


def test_factors_of_custom_keys_are_multiplied_and_frozen_stages_have_no_group():
    model, wrapper, _ = build('mmseg')
    wrapper.paramwise_cfg.custom_keys['decode_head'] = dict(lr_mult=10.0)
    wrapper.paramwise_cfg.custom_keys['stages.3'] = dict(lr_mult=0.1)
    model.backbone.frozen_stages = 2
    model.backbone.train()
    found = settings(model, wrapper, 'mmseg')
    assert not any(name.startswith(('backbone.stem.', 'backbone.stages.0.', 'backbone.stages.1.')) for name in found)
    assert found['decode_head.conv_seg.weight']['lr'] == pytest.approx(10 * LR)
    assert found['backbone.stages.3.0.ffn.0.weight']['lr'] == pytest.approx(0.1 * LR * RATE)
    assert found['backbone.stages.2.0.ffn.0.weight']['lr'] == pytest.approx(LR * RATE**2)


@pytest.mark.parametrize('rate', [None, 0, 1.5, True, '0.5'])
def test_a_rate_out_of_range_is_refused(rate):
    model = torch.nn.Linear(1, 1)
    wrapper = dict(optimizer=dict(type='SGD', lr=1.0), constructor='LayerDecayOptimWrapperConstructor')
    with pytest.raises(ValueError, match=r'layer_decay_rate must be a number above 0 and at most 1, got'):
        build_optim_wrapper(model, dict(wrapper, paramwise_cfg=dict(layer_decay_rate=rate)))


def test_a_model_without_depths_is_refused():
    wrapper = dict(optimizer=dict(type='SGD', lr=1.0), constructor='LayerDecayOptimWrapperConstructor')
    wrapper['paramwise_cfg'] = dict(layer_decay_rate=0.9)
    with pytest.raises(ValueError, match=r'no part of Linear has get_layer_depth.*remove optim_wrapper\.constructor'):
        build_optim_wrapper(torch.nn.Linear(1, 1), wrapper)
