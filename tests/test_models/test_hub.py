"""The backbone without any task library: torch.hub, and the training loop of the how-to page."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from mmdefmamba.models import ARCHITECTURES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_hub_builds_the_backbone_from_a_clone(arch):
    with torch.device('meta'):
        model = torch.hub.load(str(ROOT), f'defmamba_{arch}', source='local', out_indices=(0, 3))
        maps = model(torch.empty(1, 3, 64, 96))
    dims = ARCHITECTURES[arch]['embed_dims']
    assert [tuple(x.shape) for x in maps] == [(1, dims[0], 16, 24), (1, dims[3], 2, 3)]


def test_hub_names_are_documented():
    hubconf = runpy.run_path(str(ROOT / 'hubconf.py'))
    names = [f'defmamba_{arch}{end}' for arch in ARCHITECTURES for end in ('', '_classifier')]
    # as torch.hub.list: what can be called and has no underscore in front
    assert sorted(name for name, item in hubconf.items() if callable(item) and name[0] != '_') == sorted(names)
    assert all(hubconf[name].__doc__.startswith('Build DefMamba-') for name in names)


def test_hub_builds_a_classifier():
    pytest.importorskip('timm')
    with torch.device('meta'):
        model = torch.hub.load(str(ROOT), 'defmamba_tiny_classifier', source='local', num_classes=3)
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 3)


def test_examples_of_the_page_on_plain_pytorch_run():
    page = (ROOT / 'docs/howto/pytorch.md').read_text('utf-8')
    examples = re.findall(r'```python\n(.*?)```', page, re.S)
    names = {}
    for example in examples:
        exec(compile(example, 'docs/howto/pytorch.md', 'exec'), names)
    assert [tuple(x.shape) for x in names['maps']] == [(1, 192, 14, 14), (1, 384, 7, 7)]
    assert names['losses'][-1] < names['losses'][0]
