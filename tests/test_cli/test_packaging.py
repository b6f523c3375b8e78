import re
import runpy
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import setuptools

from mmdefmamba.version import __version__

ROOT = Path(__file__).parents[2]
OPENMMLAB = {'mmcv-lite', 'mmdet', 'mmengine', 'mmpretrain', 'mmsegmentation'}


def name_of(requirement):
    return re.match(r'[\w-]+', requirement)[0]


@pytest.fixture
def metadata(monkeypatch):
    """Return ``metadata(*missing)``: the arguments that setup.py passes to setuptools if these modules are missing."""

    def metadata(*missing):
        given = {}
        monkeypatch.setattr(setuptools, 'find_packages', lambda include: include)
        if missing:
            monkeypatch.setattr(subprocess, 'run', lambda *_, **__: SimpleNamespace(stdout=' '.join(missing)))
        monkeypatch.setattr(setuptools, 'setup', lambda **items: given.update(items))
        runpy.run_path(str(ROOT / 'setup.py'))
        return given

    return metadata


def test_only_missing_openmmlab_packages_are_required(metadata):
    required = {name_of(line) for line in metadata()['install_requires']}
    assert required >= {'torch', 'torchvision', 'numpy'}
    assert not required & OPENMMLAB  # in the tests all five can be imported
    assert {name_of(line) for line in metadata('mmcv', 'mmseg')['install_requires']} & OPENMMLAB == {
        'mmcv-lite',
        'mmsegmentation',
    }


def test_version_is_read_without_importing_the_package(metadata):
    assert metadata()['version'] == __version__


def test_every_folder_has_an_init_file(metadata):
    assert metadata()['packages'] == ['mmdefmamba', 'mmdefmamba.*']
    folders = {path.parent for path in (ROOT / 'mmdefmamba').rglob('*.py')}
    assert [folder for folder in folders if not (folder / '__init__.py').exists()] == []


def test_every_requirement_has_a_tested_version(metadata):
    lines = (ROOT / 'requirements/constraints.txt').read_text().splitlines()
    pinned = {name_of(line) for line in lines if not line.startswith('#')}
    assert all('==' in line for line in lines if not line.startswith('#'))
    required = metadata('mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg')
    # the other extras, mamba and mmcv, are built from source
    extras = [line for extra in ('app', 'dev', 'docs') for line in required['extras_require'][extra]]
    assert {name_of(line) for line in required['install_requires'] + extras} - pinned == set()


def test_every_lower_bound_is_what_test_oldest_installs(metadata):
    lines = (ROOT / 'requirements/oldest.txt').read_text().splitlines()
    oldest = dict(line.split('==') for line in lines if not line.startswith('#'))
    required = metadata('mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg')['install_requires']
    bounds = {name_of(line): match[1] for line in required if (match := re.search(r'>=([^,]+)', line))}
    assert {name_of(line) for line in required} == {*oldest} & {name_of(line) for line in required}
    for name, bound in bounds.items():
        assert oldest[name].removesuffix('.0') == bound.removesuffix('.0'), f'{name} is tested from {oldest[name]} on'
