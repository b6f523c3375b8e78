"""Files of the authors are converted completely or not at all: by the function, the tool and ``released://``."""

import argparse
import hashlib
import os
import pickle
import runpy
import sys
import types
from pathlib import Path

import pytest
import torch
from mmengine import Config
from mmengine.runner import CheckpointLoader, load_checkpoint

from mmdefmamba import __version__
from mmdefmamba.converters import convert_file, convert_released, export_released
from mmdefmamba.guards.config_files import check_checkpoint_files
from mmdefmamba.models import DefMamba

TOOL = Path(__file__).parents[2] / 'tools' / 'model_converters' / 'convert_released.py'
ARCH = {'embed_dims': (16, 32, 64, 128), 'depths': (1, 2, 1, 1)}  # of the checkpoint


def test_file_is_converted_completely(released_file, checkpoint, tmp_path, assert_same):
    target = tmp_path / 'ours.pth'
    written = convert_file(released_file, target)
    read = torch.load(target, weights_only=True)
    assert read['meta'] == written['meta']
    assert read['meta'] == {
        'arch': ARCH,
        'formulation': 'released',
        'num_classes': 10,
        'ema': False,
        'source': 'checkpoint.pth',
        'source_sha256': hashlib.sha256(released_file.read_bytes()).hexdigest(),
        'mmdefmamba_version': __version__,
    }
    assert_same(read['state_dict'], convert_released(checkpoint))
    assert os.listdir(tmp_path) == ['ours.pth']


def test_training_file_with_yacs_settings_needs_no_trust(checkpoint, tmp_path, monkeypatch, assert_same):
    class CfgNode(dict):  # like the class of yacs: a dict with attributes
        def __init__(self, *args):
            super().__init__(*args)
            self.__dict__['__immutable__'] = True

    with monkeypatch.context() as patch:
        module = types.ModuleType('yacs.config')
        module.CfgNode = CfgNode
        CfgNode.__module__, CfgNode.__qualname__ = 'yacs.config', 'CfgNode'
        patch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
        patch.setitem(sys.modules, 'yacs.config', module)
        config = CfgNode({'MODEL': CfgNode({'DROP_PATH': 0.2, 'NAMES': ['a', None]})})
        training = checkpoint | {'config': config, 'optimizer': {'state': {0: {'step': torch.ones(1)}}}, 'epoch': 299}
        torch.save(training, tmp_path / 'training.pth')
    written = convert_file(tmp_path / 'training.pth', tmp_path / 'ours.pth')
    assert_same(written['state_dict'], convert_released(checkpoint))


def test_pickled_code_is_refused_and_named(checkpoint, creates_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(checkpoint | {'config': creates_file('attacked', os.mkdir)}, 'attack.pth')
    with pytest.raises(pickle.UnpicklingError, match=r'mkdir.*--trust'):
        convert_file('attack.pth', 'ours.pth')
    with pytest.raises(pickle.UnpicklingError, match=r'mkdir.*--trust'):
        load_checkpoint(DefMamba(ARCH, formulation='released'), 'released://attack.pth')
    assert os.listdir() == ['attack.pth']


def test_trusted_file_is_read(checkpoint, tmp_path, assert_same):
    torch.save(checkpoint | {'config': argparse.Namespace(lr=1e-3)}, tmp_path / 'training.pth')
    with pytest.raises(pickle.UnpicklingError, match=r'argparse\.Namespace'):
        convert_file(tmp_path / 'training.pth', tmp_path / 'ours.pth')
    written = convert_file(tmp_path / 'training.pth', tmp_path / 'ours.pth', trust=True)
    assert_same(written['state_dict'], convert_released(checkpoint))
    # trust ends with the call
    with pytest.raises(pickle.UnpicklingError, match=r'argparse\.Namespace'):
        convert_file(tmp_path / 'training.pth', tmp_path / 'again.pth')


def test_target_is_never_the_source_nor_half_written(released_file, tmp_path, monkeypatch):
    source, target = tmp_path / 'source.pth', tmp_path / 'ours.pth'
    source.write_bytes(released_file.read_bytes())
    target.symlink_to(source)
    for name in (source, target):
        with pytest.raises(ValueError, match='is the file to convert'):
            convert_file(source, name)
    target.unlink()
    target.write_text('before')
    os.link(target, tmp_path / 'opened before.pth')
    convert_file(source, target)
    assert (tmp_path / 'opened before.pth').read_text() == 'before'
    (tmp_path / 'opened before.pth').replace(target)

    def fail(checkpoint, file):
        file.write(b'half')
        raise OSError('disk full')

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(OSError, match='disk full'):
        convert_file(source, target)
    assert target.read_text() == 'before'
    assert sorted(os.listdir(tmp_path)) == ['ours.pth', 'source.pth']


def run_tool(monkeypatch, capsys, *args):
    """Run the tool; return what it says of an error (None for success) and its output."""
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name='__main__')
    printed = capsys.readouterr()
    return printed.err if ended.value.code else None, printed.out


def test_tool_converts_and_describes_the_file(checkpoint, tmp_path, monkeypatch, capsys, assert_same):
    source, target = tmp_path / 'theirs.pth', tmp_path / 'ours.pth'
    checkpoint['model_ema'] = {name: weight + 1 for name, weight in checkpoint['model'].items()}
    torch.save(checkpoint, source)
    message, output = run_tool(monkeypatch, capsys, source, target, '--ema')
    assert message is None
    assert_same(export_released(torch.load(target, weights_only=True)['state_dict']), checkpoint['model_ema'])
    # the authors have not published a network of this size, and the tool says so
    assert f'arch not a published one, {ARCH}' in output
    for part in ("formulation 'released'", '10 classes', '159 tensors', '430,843 parameters', 'averaged weights'):
        assert part in output


def test_tool_names_the_published_size(tmp_path, monkeypatch, capsys):
    tiny = torch.nn.ModuleDict(dict(backbone=DefMamba('tiny', formulation='released', out_indices=-1)))
    head = {'head.fc.weight': torch.rand(5, 384), 'head.fc.bias': torch.rand(5)}
    torch.save({'model': export_released(tiny.state_dict() | head)}, tmp_path / 'theirs.pth')
    message, output = run_tool(monkeypatch, capsys, tmp_path / 'theirs.pth', tmp_path / 'ours.pth')
    assert message is None
    assert 'arch tiny; ' in output


def test_tool_says_what_is_wrong_with_a_file(released_file, tmp_path, monkeypatch, capsys):
    content = released_file.read_bytes()
    files = {
        'cut.pth': (content[: len(content) // 2], r'end of the file is missing'),
        'text.pth': (b'<html>404</html>', 'of torch.save'),
        'empty.pth': (b'', '0 bytes'),
    }
    for name, (data, expected) in files.items():
        (tmp_path / name).write_bytes(data)
        message, _ = run_tool(monkeypatch, capsys, tmp_path / name, tmp_path / 'ours.pth')
        assert message.startswith('error: ')
        assert expected in message
    torch.save({'model': {'layer1.0.conv1.weight': torch.ones(1)}}, tmp_path / 'resnet.pth')
    message, _ = run_tool(monkeypatch, capsys, tmp_path / 'resnet.pth', tmp_path / 'ours.pth')
    assert message.startswith('error: not a checkpoint of a DefMamba: it has 1 parameters (layer1.0.conv1.weight)')
    message, _ = run_tool(monkeypatch, capsys, tmp_path / 'absent.pth', tmp_path / 'ours.pth')
    assert message.startswith('error: ')
    assert 'absent.pth' in message
    assert not (tmp_path / 'ours.pth').exists()


# ---- released://


def test_mmengine_loads_a_released_file_directly(released_file, checkpoint, assert_same):
    ours = convert_released(checkpoint)
    expected = {k.removeprefix('backbone.'): v for k, v in ours.items() if k.startswith('backbone.')}
    model = DefMamba(
        ARCH,
        formulation='released',
        out_indices=-1,
        init_cfg=dict(type='Pretrained', checkpoint=f'released://{released_file}', prefix='backbone.'),
    )
    model.init_weights()
    assert_same(model.state_dict(), expected)

    whole = torch.nn.Module()
    whole.backbone = DefMamba(ARCH, formulation='released', out_indices=-1)
    whole.head = torch.nn.Module()
    whole.head.fc = torch.nn.Linear(128, 10)
    loaded = load_checkpoint(whole, f'released://{released_file}', strict=True)
    assert_same(whole.state_dict(), ours)
    assert loaded['meta'] == {'arch': ARCH, 'formulation': 'released', 'num_classes': 10, 'ema': False}


def test_released_scheme_refuses_other_files(tmp_path):
    torch.save({'state_dict': {'conv.weight': torch.ones(1)}}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='not a checkpoint of a DefMamba'):
        load_checkpoint(DefMamba(ARCH), f'released://{tmp_path / "other.pth"}')


@pytest.fixture
def training_file(checkpoint, tmp_path):
    """Return the path of a training file of the authors, with raw weights and averages one larger."""
    averages = {name: weight + 1 for name, weight in checkpoint['model'].items()}
    torch.save(checkpoint | {'model_ema': averages}, tmp_path / 'training.pth')
    return tmp_path / 'training.pth'


def test_averaged_weights_wherever_a_checkpoint_is_read(training_file, checkpoint, told):
    name = 'layers.0.blocks.0.norm.weight'
    raw = checkpoint['model'][name]
    for end, expected in (('', raw), ('?ema', raw + 1)):
        source = f'released://{training_file}{end}'
        loaded = CheckpointLoader.load_checkpoint(source)
        assert torch.equal(loaded['state_dict']['backbone.stages.0.0.norm1.weight'], expected)
        assert loaded['meta']['ema'] is bool(end)
        backbone = DefMamba(
            ARCH,
            formulation='released',
            init_cfg=dict(
                type='Pretrained', checkpoint=source, prefix='backbone.', weights='raw', output_norms='fresh'
            ),
        )
        backbone.init_weights()
        assert torch.equal(backbone.stages[0][0].norm1.weight, expected)
        check_checkpoint_files(Config(dict(load_from=source)))
    assert any('its raw weights (released://...?ema takes the averaged ones)' in text for _, text in told)
    with pytest.raises(FileNotFoundError, match=r'load_from: the checkpoint .*no\.pth does not exist'):
        check_checkpoint_files(Config(dict(load_from='released://no.pth?ema')))


def test_a_file_without_averages_has_no_averages(released_file):
    with pytest.raises(ValueError, match="no averaged weights, 'model_ema'"):
        CheckpointLoader.load_checkpoint(f'released://{released_file}?ema')
