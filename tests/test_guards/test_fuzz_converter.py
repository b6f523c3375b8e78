"""Damaged checkpoints of the authors are converted completely, or refused with a name. Code in them never runs.

``pytest tests/test_guards/test_fuzz_converter.py --examples 10000`` tries more files.
"""

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mmdefmamba.converters import convert_file, convert_released, export_released
from mmdefmamba.models import DefMamba

hypothesis = pytest.importorskip('hypothesis', reason='pip install hypothesis')
from hypothesis import strategies as st  # noqa: E402

ARCH = {'embed_dims': (4, 8), 'depths': (1, 2)}


def released():
    """Return the content of a small file as the authors write it."""
    torch.manual_seed(0)
    model = DefMamba(ARCH, formulation='released', out_indices=-1)
    weights = {f'backbone.{name}': weight for name, weight in model.state_dict().items()}
    weights |= {'head.fc.weight': torch.rand(3, 8), 'head.fc.bias': torch.rand(3)}
    return {'model': export_released(weights)}


FILE = released()
NAMES = sorted(FILE['model'])
# Values that replace a tensor, and keys that replace a name.
VALUES = [None, 1, 'text', b'bytes', [1.0], {}, np.zeros(3), torch.nn.Parameter, object]
KEYS = [
    None,
    0,
    ('a', 1),
    b'layers.0.blocks.0.norm.weight',
    '',
    '.',
    'layers..blocks.',
    'layers.-1.blocks.0.norm.weight',
]
NUMBERS = ['00', '٠', '7', '99999', '99999999999999999999']
SHAPES = [(), (0,), (1,), (1, 1, 1, 1), (2**20,)]
DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool, torch.complex64]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@st.composite
def changes_of_weights(draw):
    """Draw a kind of change, the name that it changes, and a function that makes the change in a state dict."""
    name = draw(st.sampled_from(NAMES))
    kind = draw(st.sampled_from(['drop', 'letter', 'number', 'key', 'value', 'shape', 'dtype', 'copy']))
    if kind == 'drop':
        return kind, name, lambda weights: weights.pop(name, None)
    if kind in ('letter', 'number'):
        if kind == 'letter':
            at = draw(st.integers(0, len(name) - 1))
            other = name[:at] + draw(st.characters()) + name[at + draw(st.integers(0, 1)) :]
        else:
            other = re.sub(r'\d+', draw(st.sampled_from(NUMBERS)), name, count=draw(st.integers(1, 2)))
        moved = re.match(r'layers\.(\d+)\.', other)
        # the error for a parameter of a stage that does not exist names that stage
        kind = f'stages.{moved[1]}.' if moved and not name.startswith(moved[0]) else kind
        return kind, name, lambda weights: weights.update({other: weights.pop(name, torch.ones(1))})
    if kind == 'copy':
        prefix = draw(st.sampled_from(['module.', 'backbone.', 'x.', 'head.', 'backbone.stages.0.']))
        return kind, name, lambda weights: weights.update({prefix + name: weights.get(name, torch.ones(1))})
    if kind == 'key':
        key = draw(st.sampled_from(KEYS))
        return kind, name, lambda weights: weights.update({key: weights.pop(name, torch.ones(1))})
    if kind == 'value':
        value = draw(st.sampled_from(VALUES))
        return kind, name, lambda weights: weights.update({name: value})
    if kind == 'shape':
        shape = draw(st.sampled_from(SHAPES))
        return kind, name, lambda weights: weights.update({name: torch.zeros(shape)})
    dtype = draw(st.sampled_from(DTYPES))
    return kind, name, lambda weights: weights.update({name: torch.ones_like(FILE['model'][name], dtype=dtype)})


def test_changed_state_dict_is_converted_completely_or_refused(bounded):
    @bounded
    @hypothesis.given(st.lists(changes_of_weights(), min_size=1, max_size=3))
    def check(spoilt):
        weights = dict(FILE['model'])
        for _, _, spoil in spoilt:
            spoil(weights)
        try:
            converted = convert_released({'model': weights})
        except ValueError as error:
            assert str(error), 'an error without a word'
            if len(spoilt) == 1 and spoilt[0][0] != 'copy':
                kind, name, _ = spoilt[0]
                stage = re.match(r'layers\.(\d+)', name)
                places = [name, kind, *([f'[{stage[1]}]'] if stage else [])]
                assert kind in ('key', 'value') or any(place in str(error) for place in places), error
            return
        # nothing is lost, added or cast
        assert all(weight.dtype in FLOATS for weight in converted.values())
        assert sorted(map(id, converted.values())) == sorted(map(id, weights.values()))
        assert export_released(converted).keys() == FILE['model'].keys()

    check()


@pytest.fixture
def files(tmp_path, monkeypatch, creates_file):
    """Return the bytes of good files and of files that make a folder when they are unpickled."""
    monkeypatch.chdir(tmp_path)
    contents, attack = [], creates_file('attacked', os.mkdir)
    for extra, legacy in ((None, False), (None, True), (attack, False), (attack, True)):
        torch.save(FILE | {'config': extra}, 'file.pth', _use_new_zipfile_serialization=not legacy)
        contents.append(Path('file.pth').read_bytes())
    pickle.loads(pickle.dumps(attack))
    os.rmdir('attacked')  # fails if unpickling made no folder: then this test would prove nothing
    return contents


def test_changed_bytes_are_refused_or_converted_and_run_no_code(bounded, files):
    # most of a file is numbers; the names are near its beginning, and the list of contents is at its end
    places = st.one_of(st.integers(0, 2000), st.integers(-2000, -1), st.integers(0, min(map(len, files)) - 1))
    changes = st.lists(st.tuples(places, st.binary(max_size=4), st.integers(0, 8)), min_size=1, max_size=4)

    @bounded
    @hypothesis.given(st.sampled_from(range(len(files))), changes, st.booleans())
    def check(which, changes, cut):
        content = bytearray(files[which])
        for at, new, removed in changes:
            at %= len(content)
            content[at : at + removed] = new
        Path('spoilt.pth').write_bytes(content[: changes[0][0]] if cut else content)
        try:
            written = convert_file('spoilt.pth', 'ours.pth')
        except (ValueError, OSError, RuntimeError, pickle.UnpicklingError) as error:
            assert str(error)
            assert not Path('ours.pth').exists()
        else:
            read = torch.load('ours.pth', weights_only=True)
            assert read['state_dict'].keys() == written['state_dict'].keys()
            assert export_released(read['state_dict']).keys() == FILE['model'].keys()
            os.remove('ours.pth')
        assert not Path('attacked').exists()

    check()
