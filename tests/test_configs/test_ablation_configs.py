"""The configs of an ablation differ only in their scans."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config

CLASSIFICATION = Path(__file__).parents[2] / 'configs/classification'
BASES = {
    'pico_digits': 'ablation/pico_digits/base.py',
    'pico_fashion_mnist': 'ablation/pico_fashion_mnist/base.py',
    'tiny_in1k': 'defmamba_t_in1k.py',
}
#: rows of the paper's tables 4 and 5; the last row of both is tiny_in1k's base
ROWS = {'fb', 'db', 'fb_continuous', 'fb_local', 'fb_raster', 'fb_points', 'fb_order'}
ROWS |= {'fb_points_order', 'fb_points_order_bias'}
AS_IN_THE_TEXT = {
    'fb_gelu_first': dict(norm_first=False),
    'fb_attention_convolution': dict(attention_input='convolution'),
}
PARTS = ('points', 'order', 'offset_bias', 'channel_attention')


@cache
def leaves(folder):
    paths = (CLASSIFICATION / 'ablation' / folder).glob('*.py')
    return {path.stem: Config.fromfile(path) for path in paths if path.stem != 'base'}


@pytest.mark.parametrize('folder', BASES)
def test_ablation_configs_differ_from_their_base_only_in_scans(folder):
    base = Config.fromfile(CLASSIFICATION / BASES[folder])
    base.model.backbone.pop('scans', None)
    configs = deepcopy(leaves(folder))
    assert set(configs) >= ROWS
    scans = [config.model.backbone.pop('scans') for config in configs.values()]
    for config in configs.values():  # variables of the file of scans that both ablations share
        for name in ('raster_pair', 'table_scans'):
            config.pop(name, None)
    assert all(config.to_dict() == base.to_dict() for config in configs.values())
    assert len({str(scan) for scan in scans}) == len(configs)


@pytest.mark.parametrize('folder', BASES)
def test_ablation_config_names_match_their_scans(folder):
    for name, config in leaves(folder).items():
        *first, last = config.model.backbone.scans
        kind = last if isinstance(last, str) else last['type']
        if name.endswith('_both'):
            forwards = first[0] if isinstance(first[0], str) else first[0]['type']
            assert len(first) == 1 and forwards == name.removesuffix('_both')
            assert kind in (forwards, f'{forwards}_reverse') and (kind != forwards or last['reverse'])
        elif name == 'fb':
            assert (*first, last) == ('raster', 'raster_reverse')
        elif name == 'db':
            assert (*first, last) == ('deformable',)
        elif name in AS_IN_THE_TEXT:
            assert last == dict(type='deformable', **AS_IN_THE_TEXT[name])
        elif '_offsets_' in name:
            assert last == dict(type='deformable_fixed', offsets=name.split('_')[-1])
        elif '_gradient_' in name:
            assert last == dict(type='deformable', order_gradient=name.split('_')[-1])
        else:
            assert first == ['raster', 'raster_reverse']
            words = name.removeprefix('fb_').replace('_bias', '_offset_bias')
            on = [part for part in PARTS if kind == 'deformable' and (isinstance(last, str) or last.get(part, True))]
            assert words == (kind if isinstance(last, str) or kind == 'local' else '_'.join(on)), name
