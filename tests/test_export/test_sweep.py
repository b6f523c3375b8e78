"""Whole models, heads and scans as ONNX files, each at six sizes or more. A row takes half a minute to two minutes:

python -m pytest -m sweep -s tests/test_export/test_sweep.py
python -m pytest -m sweep -s tests/test_export/test_sweep.py -k 'model and defmamba_t_in1k'

It prints the table of docs/howto/export.md, "What was verified". Its times are seconds of processor time.
"""

import time

import pytest
import torch

from mmdefmamba import get_model
from mmdefmamba.apis.zoo import load_config
from mmdefmamba.export import export_model

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')
pytestmark = pytest.mark.sweep
#: model -> (size of the images that are checked beside verification.SIZES, options)
MODELS = {
    'defmamba_t_in1k': ((224, 224), {}),
    'defmamba_t_in1k_released': ((224, 224), {}),
    'defmamba_s_in1k': ((224, 224), {}),
    'defmamba_pico_digits': ((225, 190), dict(preprocessing=True, inline=True)),
    'defmamba_pico_digits_released': ((224, 160), dict(format='pt2')),
    'upernet_defmamba_pico_digits': ((224, 160), {}),
    'mask_rcnn_defmamba_pico_digits': ((224, 160), {}),
}
#: Configs whose heads and necks are exported with a backbone of one block of one scan per stage.
HEADS = (
    *('upernet_defmamba_t_160k', 'fpn_defmamba_t_160k', 'segformer_defmamba_t_160k', 'deeplabv3plus_defmamba_t_160k'),
    *('ocrnet_defmamba_t_160k', 'mask_rcnn_defmamba_t_1x', 'retinanet_defmamba_t_1x', 'rtmdet_defmamba_t_300e'),
)
SCANS = ('raster', 'raster_reverse', 'column', 'column_reverse', 'local', 'atrous', 'continuous', 'zigzag', 'quadtree')


def run(name, model, path, shape, options):
    begin = time.process_time()
    times = []
    found = export_model(
        model.cfg,
        model,
        path,
        shape=shape,
        report=lambda line: times.append((line[:3], time.process_time())),
        **options,
    )
    checked = next(moment for line, moment in times if line == '3/3')
    cells = [
        name + ''.join(f', {key}={value}' for key, value in options.items()),
        ', '.join('x'.join(map(str, c.size)) for c in found.comparisons),
        f'{max(max(c.parts.values()) for c in found.comparisons):.1e}',
        f'{max(max(c.differences.values()) for c in found.comparisons):.1e}',
        f'{max(max(c.own.values(), default=0) for c in found.comparisons):.1e}',
        f'{found.flips} of {sum(c.tokens for c in found.comparisons)}',
        f'{checked - begin:.0f} s',
        f'{time.process_time() - checked:.0f} s',
    ]
    print(f'\n| {" | ".join(cells)} |'.replace('| 0.0e+00 |', '| |'))
    return found


@pytest.mark.parametrize('name', MODELS)
def test_model(name, lively, tmp_path):
    torch.manual_seed(0)
    shape, options = MODELS[name]
    model = get_model(name)
    lively(model.backbone)
    path = tmp_path / f'model.{options.get("format", "onnx")}'
    assert run(name, model, path, shape, options).problems == []
    if options.get('inline'):
        assert not onnx.load(path).functions


@pytest.mark.parametrize('formulation', ['paper', 'released'])
@pytest.mark.parametrize('scan', SCANS)
def test_scan(scan, formulation, lively, tmp_path):
    cfg = load_config('defmamba_pico_digits')
    cfg.model.backbone.update(scans=[scan, dict(type='deformable')], formulation=formulation)
    model = get_model(cfg)
    lively(model.backbone)
    assert run(f'{scan}, {formulation}', model, tmp_path / 'model.onnx', (96, 80), {}).problems == []


def one_block_per_stage(name, **head):
    """Return a model of a config with one block of one scan per stage, and with other arguments of its head."""
    torch.manual_seed(0)
    cfg = load_config(name)
    cfg.model.backbone.update(
        arch=dict(embed_dims=(48, 96, 192, 384), depths=(1, 1, 1, 1)), scans=['deformable'], init_cfg=None
    )
    if head:
        heads = cfg.model.decode_head
        for one in heads if isinstance(heads, list) else [heads]:
            one.update(head)
    return get_model(cfg)


@pytest.mark.parametrize('name', HEADS)
def test_head(name, lively, tmp_path):
    model = one_block_per_stage(name)
    lively(model.backbone)
    assert run(f'{name}, one block per stage', model, tmp_path / 'model.onnx', (160, 224), {}).problems == []


@pytest.mark.parametrize('name', HEADS[:5])
def test_head_with_aligned_corners(name, lively, tmp_path):
    model = one_block_per_stage(name, align_corners=True)
    assert model.align_corners
    lively(model.backbone)
    name = f'{name}, align_corners=True'
    assert run(name, model, tmp_path / 'model.onnx', (160, 224), {}).problems == []
