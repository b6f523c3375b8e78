"""Names with control characters as every path that a tool takes: none of them reaches a terminal or a log."""

import importlib
import logging
import re
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest

from mmdefmamba.cli import program

ROOT = Path(__file__).parents[2]
# clears the screen, sets the title of the window, turns the direction of the text, forges a line, is no valid UTF-8
HOSTILE = 'a\x1b[2J\x1b]0;title\x07\x9b1m\u202eb\nforged: line\udcff'
MODULES = {
    str(path.relative_to(ROOT / 'tools').with_suffix('')): re.search(r'from (\S+) import main', path.read_text())[1]
    for path in sorted((ROOT / 'tools').rglob('*.py'))
}
#: What a tool needs beside the argument that is tried, where that is more than a file that does not exist.
REST = {
    'dataset_converters/digit_scenes': ['--train', '1', '--val', '1'],
    'analysis_tools/compare_formulations': ['--only', 'parity'],
    'visualization/static_scans': ['--scans', 'raster'],
}
#: Takes no path, or trains for a minute: the slow test below.
LEFT_OUT = ('doctor', 'quickstart')


class Parsed(Exception):
    """Raised with the parser of a tool."""


def parser_of(module):
    with pytest.MonkeyPatch.context() as patch:

        def parse_args(parser, argv=None):
            raise Parsed(parser)

        patch.setattr(program.Parser, 'parse_args', parse_args)
        try:
            module.main()
        except Parsed as parsed:
            return parsed.args[0]
    raise AssertionError('the tool has no parser of its own')


def texts(parser):
    """Return the arguments of a parser that can be paths."""
    actions = [action for action in parser._actions if action.nargs != 0 and action.dest != 'help']
    return [action for action in actions if not action.choices and action.type in (None, Path, str)]


def call(module, argv, monkeypatch, capsys):
    """Run a tool as its file in tools/ does, and return what it printed."""
    monkeypatch.setattr(sys, 'argv', ['tool.py', *argv])
    capsys.readouterr()
    hook = sys.excepthook
    with pytest.raises(BaseException) as ended:
        program.run(module.main)
    if not isinstance(ended.value, SystemExit):
        sys.excepthook(ended.type, ended.value, ended.value.__traceback__)
    sys.excepthook = hook
    return '\n'.join(capsys.readouterr()), getattr(ended.value, 'code', 1)


def assert_clean(text, lines=True):
    obeyed = {char for char in text if unicodedata.category(char) in ('Cc', 'Cf', 'Cs', 'Zl', 'Zp')}
    assert obeyed <= {'\n', '\t'}, obeyed
    assert not lines or not [line for line in text.split('\n') if line.startswith('forged')], text


@pytest.mark.parametrize('name', [name for name in MODULES if name not in LEFT_OUT])
def test_a_tool_shows_a_name_that_does_not_exist(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(MODULES[name])
    parser = parser_of(module)
    tried = 0
    for action in texts(parser):
        needed = [other for other in parser._actions if not other.option_strings and other is not action]
        needed = [other for other in needed if other.nargs not in ('?', '*', '...')]
        positional = [(other.choices or ['missing'])[0] for other in needed]
        count = action.nargs if isinstance(action.nargs, int) else 1
        hostile = [HOSTILE] * count
        given = (
            [*positional, *REST.get(name, []), action.option_strings[0], *hostile] if action.option_strings else None
        )
        if given is None:
            place = [other for other in parser._actions if not other.option_strings].index(action)
            given = [*positional[:place], *hostile, *positional[place:], *REST.get(name, [])]
        text, _ = call(module, given, monkeypatch, capsys)
        assert_clean(text)
        tried += 1
    assert tried


def log_it():
    logger = logging.getLogger('a library')
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    try:
        raise OSError(HOSTILE)
    except OSError:
        logger.exception('failed: %s', HOSTILE)
    logger.removeHandler(handler)


def fail():
    raise RuntimeError(HOSTILE)


@pytest.mark.parametrize(
    ('main', 'count'),
    [
        (lambda: program.Parser().parse_args([HOSTILE]), 1),
        (lambda: program.Parser().error(HOSTILE), 1),
        (lambda: sys.exit(HOSTILE), 1),
        (lambda: program.tell_error(OSError(HOSTILE)), 1),
        (lambda: print(HOSTILE), 1),
        (fail, 1),
        (log_it, 2),
    ],
)
def test_a_tool_shows_what_other_code_prints(main, count, monkeypatch, capsys):
    text, _ = call(SimpleNamespace(main=main), [HOSTILE], monkeypatch, capsys)
    assert_clean(text)
    assert 'Logging error' not in text
    assert text.count(r'a\x1b[2J\x1b]0;title\x07\x9b1m\u202eb\nforged: line\udcff') == count


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder, config and image with hostile names."""
    folder = tmp_path_factory.mktemp('hostile') / HOSTILE
    folder.mkdir()
    base = str(ROOT / 'configs/classification/defmamba_pico_digits.py')
    (folder / f'{HOSTILE}.py').write_text(f"""
_base_ = {base!r}
model = dict(backbone=dict(arch=dict(_delete_=True, embed_dims=(8, 16), depths=(1, 1)), out_indices=1))
model['head'] = dict(in_channels=16)
train_dataloader = dict(batch_size=16, dataset=dict(indices=16))
val_dataloader = test_dataloader = dict(batch_size=16, dataset=dict(indices=16))
train_cfg = dict(max_epochs=1)
""")
    return folder


def test_trainings_tests_and_figures_show_hostile_names(folder, tmp_path, monkeypatch, capsys, forget_runs):
    monkeypatch.chdir(tmp_path)
    config, work_dir = str(folder / f'{HOSTILE}.py'), tmp_path / HOSTILE.removesuffix('\udcff')

    def tool(name, *argv, code=(0, None)):
        forget_runs()
        text, status = call(importlib.import_module(MODULES[name]), list(map(str, argv)), monkeypatch, capsys)
        assert status in code, text
        assert_clean(text)
        return text

    text = tool('train', config, '--work-dir', folder, code=(2,))
    assert 'is not valid UTF-8. Choose another --work-dir' in text
    tool('train', config, '--work-dir', work_dir)
    (checkpoint,) = work_dir.glob('epoch_1.pth')
    moved = checkpoint.rename(folder / f'{HOSTILE}.pth')
    outputs = ('--work-dir', work_dir, '--show-dir', work_dir / 'shown', '--out', work_dir / 'out.pkl')
    tool('test', config, moved, *outputs)
    text = tool('test', config, moved, '--work-dir', work_dir, '--show-dir', folder, code=(2,))
    assert 'is not valid UTF-8. Choose another --show-dir' in text
    tool('analysis_tools/get_flops', config, '--shape', 16)
    tool('model_converters/convert_safetensors', moved, folder / f'{HOSTILE}.safetensors')
    tool('publish_model', config, moved, folder / f'{HOSTILE}_public.pth', '--shape', 16)
    tool('check_data', config, '--report', work_dir, '--checkpoint', moved, code=(0, 1))
    image = folder / f'{HOSTILE}.png'
    mmcv.imwrite(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8), str(image))
    tool('visualization/scan_figures', config, moved, image, '--out-dir', folder / 'figures')
    tool('infer', image, '--config', config, '--checkpoint', moved, '--out-dir', folder / 'infer')
    written = [path for path in (*folder.rglob('*'), *work_dir.rglob('*')) if path.suffix in ('.log', '.html', '.md')]
    assert {path.suffix for path in written} == {'.log', '.html', '.md'}
    for path in written:
        assert_clean(path.read_text('utf-8'), lines=path.suffix != '.html')  # HTML has no lines
