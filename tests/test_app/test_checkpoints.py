"""The models that the page finds, and the messages about skipped work dirs."""

import os

import pytest

from mmdefmamba.app.trained_models import TrainedModel, find_models, with_unique_names
from mmdefmamba.cli import app as cli


@pytest.fixture
def work_dirs(tmp_path):
    """Work dirs as MMEngine writes them: two complete ones, of which one was moved, and three incomplete ones."""

    def write(name, checkpoint, last, *configs):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for number, config in enumerate(configs):
            (folder / config).touch()
            os.utime(folder / config, (number, number))
        if checkpoint:
            (folder / checkpoint).touch()
        if last:
            (folder / 'last_checkpoint').write_text(f'{last}\n')

    write('quickstart_classification', 'epoch_24.pth', tmp_path / 'quickstart_classification/epoch_24.pth', 'pico.py')
    write('again', 'iter_2.pth', '/elsewhere/again/iter_2.pth', 'new.py', 'old.py', 'newest.py')
    write('cut_short', None, None, 'pico.py')
    write('deleted', None, tmp_path / 'deleted/epoch_1.pth', 'pico.py')
    write('no_config', 'epoch_1.pth', tmp_path / 'no_config/epoch_1.pth')
    return tmp_path


def test_work_dirs_are_found_with_their_newest_config_and_last_checkpoint(work_dirs):
    found, skipped = find_models(work_dirs)
    assert found == [
        TrainedModel('again', str(work_dirs / 'again/newest.py'), str(work_dirs / 'again/iter_2.pth')),
        TrainedModel(
            'classification',
            str(work_dirs / 'quickstart_classification/pico.py'),
            str(work_dirs / 'quickstart_classification/epoch_24.pth'),
        ),
    ]
    assert [line.removeprefix(f'{work_dirs}/') for line in skipped] == [
        'deleted: its last checkpoint, epoch_1.pth, does not exist',
        'no_config: there is no config next to epoch_1.pth',
    ]
    assert find_models(work_dirs / 'again')[0] == found[:1]
    assert find_models(work_dirs / 'nowhere') == ([], [])
    # a file of safetensors is found without a note, and does not take the place of the one that a note names
    for name in ('again', 'published', 'without_config'):
        (work_dirs / name).mkdir(exist_ok=True)
        (work_dirs / name / 'model.safetensors').touch()
    (work_dirs / 'published/pico.py').touch()
    published = TrainedModel('published', *(str(work_dirs / 'published' / n) for n in ('pico.py', 'model.safetensors')))
    assert [model for model in find_models(work_dirs)[0] if model not in found] == [published]


def test_models_with_the_same_name_get_numbers():
    names = [model.name for model in with_unique_names([TrainedModel(name, '', '') for name in 'abaa'])]
    assert names == ['a', 'b', 'a (2)', 'a (3)']


def test_found_and_skipped_models_are_printed(work_dirs, capsys):
    pair = ('defmamba_pico_digits', str(work_dirs / 'quickstart_classification/epoch_24.pth'))
    models = cli.collect_models([work_dirs], [pair])
    # the named model is first, and its checkpoint, which a folder has as well, is there once
    assert [model.name for model in models] == ['defmamba_pico_digits', 'again']
    assert models[0] == TrainedModel('defmamba_pico_digits', *pair)
    captured = capsys.readouterr()
    assert captured.out.count('found ') == 2 and 'found again: ' in captured.out
    assert captured.err.count('skipped ') == 2


def test_missing_models_are_an_error_with_the_remedy(work_dirs, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r'no trained model in .*cut_short, seen from .*make quickstart'):
        cli.collect_models([work_dirs / 'cut_short'], [])
    with pytest.raises(FileNotFoundError, match=r'checkpoint nowhere\.pth does not exist'):
        cli.collect_models([], [('defmamba_pico_digits', 'nowhere.pth')])


def test_missing_gradio_is_reported_with_its_extra(monkeypatch, capsys):
    monkeypatch.setattr(cli.importlib.util, 'find_spec', lambda name: None)
    assert cli.main([]) == 2
    assert "pip install 'mmdefmamba[app]'" in capsys.readouterr().err


def test_page_listens_on_this_machine_only_by_default():
    args = cli.app_parser().parse_args([])
    assert (args.host, args.port, args.device) == ('127.0.0.1', 7860, 'cpu')
    assert not any('share' in option for action in cli.app_parser()._actions for option in action.option_strings)
