"""What is said about libraries that are missing, and about two distributions with one import name."""

import pytest
from mmengine.config import Config

from mmdefmamba.guards.config_errors import explain_errors, read_config
from mmdefmamba.installed import explain_missing


@pytest.mark.parametrize(
    ('error', 'name', 'package'),
    [
        (ModuleNotFoundError("No module named 'mmcv'", name='mmcv'), 'mmcv', 'mmcv-lite'),
        (ModuleNotFoundError("No module named 'mmseg.apis'", name='mmseg.apis'), 'mmseg', 'mmsegmentation'),
        (ModuleNotFoundError("No module named 'sklearn'", name='sklearn'), 'sklearn', 'scikit-learn'),
        # as MMEngine says it, with the name of the distribution
        (ModuleNotFoundError('mmsegmentation is not installed, please install it'), 'mmseg', 'mmsegmentation'),
    ],
)
def test_missing_library_is_named_with_the_command_that_installs_it(error, name, package):
    text = explain_missing(error)
    assert text.startswith(f"{name} is not installed. Install what the three tasks need: pip install 'mmdefmamba[openm")
    assert text.endswith(f'pip install {package}' + ('' if name == 'sklearn' else ', or its fork'))


@pytest.mark.parametrize(
    'error',
    [
        ModuleNotFoundError("No module named 'my_model'", name='my_model'),
        ImportError("cannot import name 'x' from 'mmdet'", name='mmdet'),
        ValueError('mmdet is not installed'),
    ],
)
def test_other_errors_are_not_explained(error):
    assert explain_missing(error) == ''


def test_config_and_run_that_need_a_missing_library_say_so(tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text("raise ModuleNotFoundError('mmdet is not installed, please install mmdet manually')\n")
    with pytest.raises(ValueError, match=r"mine\.py cannot be read, line 1: mmdet is not installed\. .*\[openmmlab\]'"):
        read_config(file)
    with (
        pytest.raises(ModuleNotFoundError, match=r"mmcv is not installed\. .*\[openmmlab\]'"),
        explain_errors(Config()),
    ):
        raise ModuleNotFoundError("No module named 'mmcv'", name='mmcv')
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'mine'$"), explain_errors(Config()):
        raise ModuleNotFoundError("No module named 'mine'", name='mine')


@pytest.mark.parametrize(
    ('installed', 'warned'), [(['mmdet'], 0), (['onedl_mmdetection'], 0), (['mmdet', 'onedl_mmdetection'], 1)]
)
def test_two_distributions_of_one_library_give_one_warning(installed, warned, run_python, tmp_path):
    """With both, the files of one lie over those of the other, and nobody knows which versions run together."""
    (tmp_path / 'mmdet').mkdir()
    (tmp_path / 'mmdet/__init__.py').write_text('')
    for number, name in enumerate(installed, start=1):
        folder = tmp_path / f'{name}-9.{number}.dist-info'
        folder.mkdir()
        (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 9.{number}\n')
    find = 'import importlib.metadata as m, sys; sys.path[:] = [p for p in sys.path if "site-packages" not in p]; '
    _, log = run_python(f'{find}import mmdefmamba, mmdet, mmdet', tmp_path)
    assert log.count('have both installed the module mmdet') == warned
    if warned:
        assert 'mmdet 9.1 and onedl-mmdetection 9.2' in log and 'pip uninstall mmdet onedl-mmdetection' in log
