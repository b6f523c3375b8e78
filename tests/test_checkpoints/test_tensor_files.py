"""Files of safetensors beside ``.pth``."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import CheckpointLoader

from mmdefmamba import get_model
from mmdefmamba.checkpoints import load_pretrained
from mmdefmamba.cli.convert_safetensors import main
from mmdefmamba.compat import load_safely
from mmdefmamba.converters import convert_format
from mmdefmamba.models import DefMamba
from mmdefmamba.tensor_files import write_tensor_file

pytest.importorskip('safetensors')

ROOT = Path(__file__).parents[2]
ARCH = dict(embed_dims=(16,), depths=(1,))
SHARED = torch.arange(6.0).view(2, 3)
STATE = {
    'a': SHARED,
    'b': SHARED,  # shares its memory
    'c': SHARED.t(),  # not contiguous
    'half': torch.tensor([float('nan'), 1.5], dtype=torch.bfloat16),
    'count': torch.tensor(3),
    'empty': torch.zeros(0, 2),
}
META = {'epoch': 3, 'dataset_meta': {'classes': ('cat', 'd\u00f6g'), 'palette': [(1, 2, 3), (4, 5, 6)]}}


def test_conversion_there_and_back_keeps_every_bit(tmp_path):
    first, middle, last = (tmp_path / name for name in ('a.pth', 'a.safetensors', 'b.pth'))
    meta = META | {'hook_msgs': {1: 'odd'}, 'seed': np.int64(7)}
    torch.save({'state_dict': STATE, 'meta': meta, 'optimizer': {}, 'ema_state_dict': {}}, first)
    assert convert_format(first, middle) == (6, ['optimizer', 'ema_state_dict', 'meta.hook_msgs'])
    assert convert_format(middle, last) == (6, [])
    loaded = load_safely(last)
    assert set(loaded['state_dict']) == set(STATE)
    for name, tensor in STATE.items():
        found = loaded['state_dict'][name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        as_bytes = [x.contiguous().flatten().view(torch.uint8) for x in (found, tensor)]
        assert torch.equal(*as_bytes)
    assert loaded['meta']['dataset_meta'] == {'classes': ['cat', 'd\u00f6g'], 'palette': [[1, 2, 3], [4, 5, 6]]}
    assert (loaded['meta']['epoch'], loaded['meta']['seed']) == (3, 7)


def test_loaders_take_files_of_safetensors(tmp_path):
    torch.manual_seed(0)
    model = DefMamba(ARCH)
    file = str(tmp_path / 'model.safetensors')
    write_tensor_file(file, {f'backbone.{name}': value for name, value in model.state_dict().items()}, META)
    for loaded in (load_safely(file), CheckpointLoader.load_checkpoint(file, map_location='cpu')):
        assert loaded['meta']['dataset_meta']['classes'] == ['cat', 'd\u00f6g']
    plain, configured = (
        DefMamba(ARCH),
        DefMamba(ARCH, init_cfg=dict(type='Pretrained', checkpoint=file, prefix='backbone.')),
    )
    load_pretrained(plain, file, prefix='backbone.')
    configured.init_weights()
    for other in (plain, configured):
        assert all(map(torch.equal, other.state_dict().values(), model.state_dict().values()))


def test_get_model_reads_weights_and_classes(tmp_path):
    pytest.importorskip('mmpretrain')
    model = get_model('defmamba_pico_digits')
    file = tmp_path / 'digits.safetensors'
    classes = [f'digit {i}' for i in range(10)]
    write_tensor_file(file, model.state_dict(), {'dataset_meta': {'classes': classes}})
    loaded = get_model('defmamba_pico_digits', file)
    assert list(loaded.dataset_meta['classes']) == classes
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))


def test_authors_file_as_safetensors_is_converted(tmp_path):
    theirs = ROOT / 'tests/data/released/checkpoint.pth'
    file = tmp_path / 'theirs.safetensors'
    write_tensor_file(file, load_safely(theirs)['model'])
    found, expected = (CheckpointLoader.load_checkpoint(f'released://{path}')['state_dict'] for path in (file, theirs))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ('damage', 'error', 'message'),
    [
        (lambda content: content[:-3], RuntimeError, 'cannot be read as a file of safetensors'),
        (lambda content: content.replace(b'"{', b'"['), RuntimeError, 'is no JSON'),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage, error, message):
    file = tmp_path / 'model.safetensors'
    write_tensor_file(file, STATE, META)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(error, match=message):
        load_safely(file)


def test_wrong_meta_is_refused_as_in_other_files(tmp_path):
    file = tmp_path / 'model.safetensors'
    write_tensor_file(file, STATE, {'dataset_meta': {'classes': 3}})
    with pytest.raises(ValueError, match=r'model\.safetensors.*meta\.dataset_meta\.classes'):
        load_pretrained(DefMamba(ARCH), str(file))


def test_missing_package_is_named(tmp_path, monkeypatch):
    file = tmp_path / 'model.safetensors'
    write_tensor_file(file, STATE)
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    with pytest.raises(ImportError, match='Install it with pip install safetensors'):
        load_safely(file)


def test_tool_converts_and_refuses_other_suffixes(tmp_path, capsys):
    torch.save({'state_dict': STATE, 'meta': {}, 'optimizer': {}}, tmp_path / 'a.pth')
    main([str(tmp_path / 'a.pth'), str(tmp_path / 'a.safetensors')])
    assert '6 tensors; left out: optimizer' in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r'error: the file to write must end in \.safetensors or \.pth, got .*a\.bin'):
        main([str(tmp_path / 'a.pth'), str(tmp_path / 'a.bin')])
