"""The wheel: what it has, that it works outside of a clone, and what it says where a library is missing."""

import json
import re
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from PIL import Image

import mmdefmamba
from mmdefmamba.datasets.digits import load_digits_split

from .conftest import LIBRARIES, ROOT, link_packages

PICO = 'defmamba_pico_digits'


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope='module')
def unpacked(build, source, tmp_path_factory):
    """Return the folder of the source archive."""
    folder = tmp_path_factory.mktemp('unpacked')
    with tarfile.open(build(source, 'sdist')) as archive:
        archive.extractall(folder, filter='data')
    return folder / f'mmdefmamba-{mmdefmamba.__version__}'


def test_wheel_from_the_source_archive_is_that_from_the_clone_whatever_is_installed(
    unpacked, source, build, wheel, tmp_path_factory
):
    """The second wheel is built by a Python that has setuptools alone: none of the libraries, nor torch."""
    (source / LIBRARIES).is_dir() and (unpacked / LIBRARIES).symlink_to(source / LIBRARIES)
    needed = ('setuptools', '_distutils_hack', 'pkg_resources', 'packaging', 'ziglang')
    folder = link_packages(tmp_path_factory.mktemp('tools') / 'packages', lambda name: name.startswith(needed))
    bare = build(unpacked, 'wheel', '-S', PYTHONPATH=str(folder))
    assert bare.name == wheel.name
    first, second = contents(wheel), contents(bare)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_wheel_has_every_config_and_tool_and_no_other_file(wheel, unpacked):
    names = {name for name in contents(wheel) if '.dist-info/' not in name}
    mim = {name.removeprefix('mmdefmamba/.mim/') for name in names if name.startswith('mmdefmamba/.mim/')}
    files = [path for folder in ('configs', 'tools') for path in (ROOT / folder).rglob('*.*')]
    files = [str(path.relative_to(ROOT)) for path in files if path.suffix != '.pyc']
    assert mim == {*files, 'model-index.yml'}
    package = {str(path.relative_to(ROOT)) for path in (ROOT / 'mmdefmamba').rglob('*.py') if '.mim' not in path.parts}
    assert package <= names
    others = {Path(name).suffix for name in names - package} - {'.json', '.so', '.txt'}
    assert others == {'.c', '.h', '.jinja', '.md', '.py', '.sh', '.yml'}
    assert {str(path.relative_to(unpacked)) for path in unpacked.rglob('*.py')} >= {*package, 'tests/conftest.py'}


def test_editable_installation_of_the_source_archive_has_links_to_the_configs(unpacked, build):
    build(unpacked, 'editable')
    for name in ('configs', 'tools', 'model-index.yml'):
        link = unpacked / 'mmdefmamba/.mim' / name
        assert link.is_symlink() and link.samefile(unpacked / name)


def test_metadata(wheel):
    (name,) = [name for name in contents(wheel) if name.endswith('/METADATA')]
    metadata = Parser().parsestr(contents(wheel)[name].decode())
    assert metadata['License-Expression'] == 'Apache-2.0'
    assert metadata['Requires-Python'] == '>=3.10'
    assert metadata.get_all('License-File') == ['LICENSE']
    assert f'{Path(name).parent}/licenses/LICENSE' in contents(wheel)
    assert metadata['Description-Content-Type'] == 'text/markdown'
    required = [line for line in metadata.get_all('Requires-Dist') if 'extra ==' not in line]
    assert {re.match(r'[\w-]+', line)[0] for line in required} == {'matplotlib', 'mmengine', 'numpy', 'scipy', 'torch'}
    assert all(re.fullmatch(r'[\w-]+>=[\w.]+', line) for line in required)


def test_name_of_the_wheel_says_for_which_machine_it_is(wheel):
    """PyPI takes no wheel with the tag linux_x86_64."""
    kernels = [name for name in contents(wheel) if name.endswith('.so')]
    tag = wheel.stem.split('-')[-1]
    assert tag.startswith('manylinux_2_17_') if kernels else tag == 'any' or tag.startswith('linux')


@pytest.fixture(scope='module')
def trained(complete):
    """Train two epochs on digits with the command, from an empty folder, and return the environment."""
    options = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=2', 'param_scheduler.0.end=1']
    options += ['param_scheduler.1.begin=1', 'param_scheduler.1.end=2', 'default_hooks.checkpoint.interval=2']
    _, log = complete.run('mmdefmamba', 'train', PICO, '--cfg-options', *options)
    assert 'mend own_configs' in log
    return complete


CHECKPOINT = f'work_dirs/{PICO}/epoch_2.pth'


def test_installed_package_trains_tests_and_predicts_digits(trained):
    assert (trained.work / CHECKPOINT).is_file()
    images, labels = load_digits_split('test')
    count = 120
    for index, image in enumerate(images[:count]):
        path = trained.work / f'digits/{index:03}.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)

    name = f'mmdefmamba::classification/{PICO}.py'
    few = f'test_dataloader.dataset.indices={count}'
    out = ['--out', 'metrics.json', '--out-item', 'metrics']
    trained.run('mmdefmamba', 'test', name, CHECKPOINT, *out, '--cfg-options', few)
    model = ['--config', PICO, '--checkpoint', CHECKPOINT, '--batch-size', count, '--no-pictures']
    trained.run(trained.python, '-m', 'mmdefmamba', 'infer', 'digits', *model)

    found = json.loads((trained.work / 'outputs/predictions.json').read_text())['images']
    right = [entry['label'] == label for entry, label in zip(found, labels[:count], strict=True)]
    accuracy = json.loads((trained.work / 'metrics.json').read_text())['accuracy/top1']
    assert accuracy == pytest.approx(100 * sum(right) / count, abs=1e-4)
    assert accuracy > 50  # chance is 10


IN_PYTHON = f"""
import json, sys
import mmdefmamba
from mmdefmamba.project import project_folder
from mmengine.config import Config
from mmengine.hub import get_config

import mmpretrain
tiny = mmpretrain.get_model('defmamba_t_in1k')
print('RESULT' + json.dumps(dict(
    file=mmdefmamba.__file__,
    names=mmdefmamba.list_models(),
    segmentation=mmdefmamba.list_models(task='segmentation'),
    mine=Config.fromfile('mine.py').to_dict(),
    hub=get_config('mmdefmamba::classification/{PICO}.py').image_size,
    parameters=sum(parameter.numel() for parameter in tiny.parameters()),
    folder=str(project_folder()),
)))
"""


def test_names_and_bases_work_outside_of_a_clone(complete):
    (complete.work / 'mine.py').write_text(
        "_base_ = 'mmdefmamba::detection/mask_rcnn_defmamba_s_1x.py'\nmodel = dict(backbone=dict(drop_path_rate=0.7))\n"
    )
    printed, _ = complete.run(complete.python, '-c', IN_PYTHON)
    found = json.loads(printed.partition('RESULT')[2])
    assert found['file'] == str(complete.site / 'mmdefmamba/__init__.py')
    assert found['folder'] == str((complete.site / 'mmdefmamba/.mim').resolve())
    assert found['names'] == mmdefmamba.list_models()
    assert found['segmentation'] == mmdefmamba.list_models(task='segmentation')
    assert found['mine']['model']['backbone']['drop_path_rate'] == 0.7
    assert found['mine']['model']['backbone']['arch'] == 'small' and found['mine']['default_scope'] == 'mmdet'
    assert found['hub'] == 32
    assert found['parameters'] == 8126470


def test_launcher_of_the_wheel_trains(trained, free_port):
    script = trained.site / 'mmdefmamba/.mim/tools/dist_train.sh'
    options = ['train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=64', 'val_dataloader.dataset.indices=10']
    options += ['default_hooks.checkpoint.interval=1']
    env = ['env', f'PORT={free_port()}', 'CUDA_VISIBLE_DEVICES=']
    trained.run(*env, script, PICO, 1, '--work-dir', 'launched', '--no-validate', '--cfg-options', *options)
    assert (trained.work / 'launched/epoch_1.pth').is_file()


def test_base_install_has_the_network_and_says_what_the_tasks_need(base):
    code = 'import torch; from mmdefmamba.models import DefMamba; print(DefMamba(arch="tiny")(torch.ones(1, 3, 64, 64))'
    printed, _ = base.run(base.python, '-c', f'{code}[-1].shape)')
    assert 'torch.Size([1, 384, 2, 2])' in printed
    _, error = base.run('mmdefmamba', 'train', PICO, code=2)
    line = error.splitlines()[-1]
    assert re.match(r'error: (config .*|mm\w+ is not installed)', line) and 'Traceback' not in error
    assert "pip install 'mmdefmamba[openmmlab]'" in line and "pip install 'mmdefmamba[mmcv]'" in line


def test_command_needs_no_library_for_its_help(base):
    assert base.run('mmdefmamba', '--version')[0] == f'mmdefmamba {mmdefmamba.__version__}\n'
    text, _ = base.run('mmdefmamba', '--help')
    assert str(base.site / 'mmdefmamba/.mim/tools') in text
