"""The example scan of docs/concepts.md works as the page says, and the page lists every scan."""

import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmdefmamba.scans import SCANS, build_scan

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / 'docs/concepts.md').read_text().partition('\n## Scans\n')[2].partition('\n## ')[0]


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The scan of the page in a module that can be imported, and the config of the page next to it."""
    scan, config = (block.partition('```')[0] for block in SECTION.split('```python\n')[1:])
    (tmp_path / 'my_scans.py').write_text(scan)
    path = tmp_path / 'config.py'
    path.write_text(config.replace("'configs/", f"'{ROOT}/configs/"))
    monkeypatch.syspath_prepend(tmp_path)
    yield scan, path
    SCANS.module_dict.pop('spiral', None)
    sys.modules.pop('my_scans', None)


def test_the_scan_of_the_docs_builds_and_learns(example):
    scan, path = example
    assert len(scan.splitlines()) <= 20
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    backbone = cfg.model.backbone
    backbone.update(arch=dict(embed_dims=(8,), depths=(1,)), out_indices=(0,))
    model = MODELS.build(backbone)
    model(torch.randn(2, 3, 24, 20))[0].square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    order = build_scan('spiral', None)(torch.zeros(1, 1, 3, 4))[1].order
    assert order.tolist() == [0, 1, 2, 3, 7, 11, 10, 9, 8, 4, 5, 6]


def test_the_docs_name_every_scan():
    rows = [line for line in SECTION.splitlines() if line.startswith('| `')]
    named = {name.strip(' `') for row in rows for name in row.split('|')[1].split(',')}
    assert named == set(SCANS.module_dict)
