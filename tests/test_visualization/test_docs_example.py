"""The examples of docs/visualization.md work."""

import re
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config

from mmdefmamba import get_model
from mmdefmamba.datasets.digits import load_digits_split
from mmdefmamba.engine import ScanVisualizationHook

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/visualization.md').read_text()
LAYER, EXAMPLE, HOOK, GRAD_CAM = (block.partition('```')[0] for block in PAGE.split('```python\n')[1:])


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checkpoint = Path('work_dirs/quickstart_classification/epoch_24.pth')
    checkpoint.parent.mkdir(parents=True)
    torch.save(get_model('defmamba_pico_digits').state_dict(), checkpoint)
    cv2.imwrite('digit.png', load_digits_split('test')[0][0])
    names = {}
    exec(EXAMPLE, names)
    printed = capsys.readouterr().out
    assert "backbone.stages.0.0.dssm (8, 8) ('raster', 'raster_reverse', 'deformable')" in printed
    assert names['first'].ranks().shape == (8, 8)
    assert names['first'].points[0, 4, 4].shape == (2,)
    height, width, _ = names['pixels'].shape
    assert cv2.imread('order.png').shape == (height, width, 3)


def test_the_example_of_another_network_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite('photo.png', load_digits_split('test')[0][0])
    exec(LAYER, {})
    assert '(28, 28) torch.Size([2, 28, 28])' in capsys.readouterr().out
    assert cv2.imread('activation.png').std() > 5


def test_the_grad_cam_example_runs():
    pytest.importorskip('pytorch_grad_cam', reason='grad-cam is not installed')
    names = {'model': get_model('defmamba_pico_digits'), 'inputs': torch.randn(2, 3, 32, 48)}
    exec(GRAD_CAM, names)
    assert names['heat'].shape == (2, 32, 48) and 0 <= names['heat'].min() < names['heat'].max() <= 1


def test_the_hook_takes_these_options():
    cfg = Config.fromstring(HOOK.replace("'configs/", f"'{ROOT}/configs/"), '.py')
    *inherited, hook = cfg.custom_hooks
    assert 'mmdefmamba.guards.GuardsHook' in [base.type for base in inherited]
    assert hook.pop('type') == 'ScanVisualizationHook'
    assert ScanVisualizationHook(**hook).interval == 10


@pytest.mark.parametrize('kind', ['images', 'tools'])
def test_paths_on_the_page_exist(kind):
    paths = {
        'images': [ROOT / 'docs' / path for path in re.findall(r'\]\((images/\S+)\)', PAGE)],
        'tools': [ROOT / path for path in re.findall(r'python (\S+\.py)', PAGE)],
    }[kind]
    assert len(paths) > 5
    assert [path for path in paths if not path.is_file()] == []
    if kind == 'images':
        assert [path for path in paths if path.stat().st_size > 120_000] == []
