"""Whole models as ONNX files, each at six sizes or more. It takes minutes per model:

python -m pytest -m sweep -s tests/test_export/test_sweep.py

It prints the table of docs/howto/export.md, "What was verified".
"""

import time

import pytest
import torch

from mmdefmamba import get_model
from mmdefmamba.apis.zoo import load_config
from mmdefmamba.export import export_model

pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')
pytestmark = pytest.mark.sweep
#: model -> (size of the images that are checked beside verification.SIZES, options)
MODELS = {
    'defmamba_t_in1k': ((224, 224), {}),
    'defmamba_t_in1k_released': ((224, 224), {}),
    'defmamba_s_in1k': ((224, 224), {}),
    'upernet_defmamba_pico_digits': ((224, 160), {}),
    'mask_rcnn_defmamba_pico_digits': ((224, 160), {}),
    'defmamba_pico_digits': ((225, 190), dict(preprocessing=True, inline=True)),
}
#: Configs whose heads and necks are exported with a backbone of one block per stage.
HEADS = (
    *('upernet_defmamba_t_160k', 'fpn_defmamba_t_160k', 'segformer_defmamba_t_160k', 'deeplabv3plus_defmamba_t_160k'),
    *('ocrnet_defmamba_t_160k', 'mask_rcnn_defmamba_t_1x', 'retinanet_defmamba_t_1x', 'rtmdet_defmamba_t_300e'),
)
SCANS = ('raster', 'raster_reverse', 'column', 'column_reverse', 'local', 'atrous', 'continuous', 'zigzag', 'quadtree')


def run(name, model, path, shape, options):
    begin = time.monotonic()
    times = []
    found = export_model(
        model.cfg, model, path, shape=shape, report=lambda line: times.append((line[:3], time.monotonic())), **options
    )
    checked = next(moment for line, moment in times if line == '3/3')
    differences = [max(c.differences.values()) for c in found.comparisons]
    tokens = sum(c.tokens for c in found.comparisons)
    print(
        f'\n| {name} | {", ".join("x".join(map(str, c.size)) for c in found.comparisons)} | {max(differences):.1e} | '
        f'{found.flips} of {tokens} | {checked - begin:.0f} s | {time.monotonic() - checked:.0f} s |'
    )
    return found


@pytest.mark.parametrize('name', MODELS)
def test_model(name, lively, tmp_path):
    torch.manual_seed(0)
    shape, options = MODELS[name]
    model = get_model(name)
    lively(model.backbone)
    assert run(name, model, tmp_path / 'model.onnx', shape, options).problems == []


@pytest.mark.parametrize('formulation', ['paper', 'released'])
@pytest.mark.parametrize('scan', SCANS)
def test_scan(scan, formulation, lively, tmp_path):
    model = get_model('defmamba_pico_digits')
    cfg = model.cfg
    cfg.model.backbone.update(scans=[scan, dict(type='deformable')], formulation=formulation)
    model = get_model(cfg)
    lively(model.backbone)
    assert run(f'{scan}, {formulation}', model, tmp_path / 'model.onnx', (96, 80), {}).problems == []


@pytest.mark.parametrize('name', HEADS)
def test_head(name, lively, tmp_path):
    torch.manual_seed(0)
    cfg = load_config(name)
    cfg.model.backbone.arch = dict(embed_dims=(48, 96, 192, 384), depths=(1, 1, 1, 1))
    cfg.model.backbone.init_cfg = None
    model = get_model(cfg)
    lively(model.backbone)
    assert run(f'{name}, one block per stage', model, tmp_path / 'model.onnx', (160, 224), {}).problems == []
