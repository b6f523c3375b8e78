"""The files of the model zoo name every config, and their statements about it are true."""

from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmdefmamba  # noqa: F401  before the libraries' models
from mmdefmamba.analysis import config_complexity

ROOT = Path(__file__).parents[2]
TREES = ('classification', 'detection', 'segmentation')


def entries():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    files = [yaml.safe_load((ROOT / name).read_text()) for name in index['Import']]
    return [entry for file in files for entry in file['Models']], [
        c for file in files for c in file.get('Collections', [])
    ]


def test_every_config_has_one_entry_of_its_name():
    models, collections = entries()
    configs = {str(path.relative_to(ROOT)) for tree in TREES for path in (ROOT / 'configs' / tree).glob('*.py')}
    assert {entry['Config'] for entry in models} == configs
    assert len(models) == len(configs)
    assert all(entry['Name'] == Path(entry['Config']).stem for entry in models)
    assert {entry['In Collection'] for entry in models} == {collection['Name'] for collection in collections}


@pytest.mark.parametrize('entry', entries()[0], ids=lambda entry: entry['Name'])
def test_parameter_counts_match_the_models(entry):
    cfg = Config.fromfile(ROOT / entry['Config'])
    init_default_scope(cfg.default_scope)
    if cfg.default_scope == 'mmpretrain':
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(cfg.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == entry['Metadata']['Parameters']


def test_every_model_has_its_flops():
    assert [entry['Name'] for entry in entries()[0] if not entry['Metadata'].get('FLOPs')] == []


@pytest.mark.parametrize(
    'entry',
    [
        pytest.param(entry, id=entry['Name'], marks=[] if 'FLOPs at' in entry['Metadata'] else pytest.mark.sweep)
        for entry in entries()[0]
    ],
)
def test_flops_match_the_models(entry):
    """The small images alone; the sizes of the paper take ten minutes:

    python -m pytest -m sweep -k flops tests/test_configs/test_model_zoo.py
    """
    shape = [int(side) for side in entry['Metadata'].get('FLOPs at', '').split(' x ') if side] or None
    counts, _ = config_complexity(Config.fromfile(ROOT / entry['Config']), shape)
    assert counts['flops_without_scan'] == entry['Metadata']['FLOPs']


def test_mmpretrain_get_model_takes_our_config_and_checkpoint(tmp_path):
    import mmpretrain

    config = str(ROOT / 'configs/classification/defmamba_pico_digits.py')
    torch.manual_seed(0)
    saved = mmpretrain.get_model(config)
    torch.save(dict(state_dict=saved.state_dict()), tmp_path / 'model.pth')
    loaded = mmpretrain.get_model(config, pretrained=str(tmp_path / 'model.pth'))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded.eval()(images), saved.eval()(images))
    features = mmpretrain.get_model(config, backbone=dict(out_indices=(0, 1, 2, 3))).backbone(images)
    assert [tuple(feature.shape[1:]) for feature in features] == [(16, 8, 8), (32, 4, 4), (64, 2, 2), (128, 1, 1)]
