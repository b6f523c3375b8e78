import re
import runpy
from pathlib import Path

import pytest
import setuptools
import yaml

from mmdefmamba.version import __version__

ROOT = Path(__file__).parents[2]


def name_of(requirement):
    return re.match(r'[\w-]+', requirement)[0]


@pytest.fixture
def metadata(monkeypatch):
    """Return the arguments that setup.py passes to setuptools."""
    given = {}
    monkeypatch.setattr(setuptools, 'find_packages', lambda include: include)
    monkeypatch.setattr(setuptools, 'setup', lambda **items: given.update(items))
    runpy.run_path(str(ROOT / 'setup.py'))
    return given


def test_base_install_has_mmengine_alone_and_the_extra_the_other_libraries(metadata):
    """The wheel's own metadata, and that no build environment changes them: tests/test_wheel."""
    required = {name_of(line) for line in metadata['install_requires']}
    assert required == {'matplotlib', 'mmengine', 'numpy', 'scipy', 'torch'}
    extra = {name_of(line) for line in metadata['extras_require']['openmmlab']}
    assert extra >= {'mmcv-lite', 'mmdet', 'mmpretrain', 'mmsegmentation', 'torchvision', 'scikit-learn'}
    assert not extra & required


def test_version_is_read_without_importing_the_package(metadata):
    assert metadata['version'] == __version__


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == __version__
    assert citation['license'] == 'Apache-2.0'
    newest = re.search(r'^## (\S+)', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)[1]
    assert newest == __version__


def test_readme_of_the_package_index_has_no_relative_link(metadata):
    """The index shows the description at an address of its own, where the files of the repository are not."""
    text = metadata['long_description']
    targets = re.findall(r'\]\(([^)]*)\)', text)
    assert targets and all(target.startswith('https://') for target in targets)
    assert 'docs/images' not in text and 'Held-out digits with the' not in text
    assert '[installation](docs/install.md)' in (ROOT / 'README.md').read_text() and 'see\ninstallation' in text


def test_every_folder_has_an_init_file(metadata):
    assert metadata['packages'] == ['mmdefmamba', 'mmdefmamba.*']
    folders = {path.parent for path in (ROOT / 'mmdefmamba').rglob('*.py')}
    assert [folder for folder in folders if not (folder / '__init__.py').exists()] == []


def test_every_requirement_has_a_tested_version(metadata):
    lines = (ROOT / 'requirements/constraints.txt').read_text().splitlines()
    pinned = {name_of(line) for line in lines if not line.startswith('#')}
    assert all('==' in line for line in lines if not line.startswith('#'))
    # these two extras are built from source
    extras = [lines for name, lines in metadata['extras_require'].items() if name not in ('mamba', 'mmcv')]
    required = [line for lines in (metadata['install_requires'], *extras) for line in lines]
    assert {name_of(line) for line in required} - pinned == set()


def test_every_lower_bound_is_what_test_oldest_installs(metadata):
    lines = (ROOT / 'requirements/oldest.txt').read_text().splitlines()
    oldest = dict(line.split('==') for line in lines if not line.startswith('#'))
    required = metadata['install_requires'] + metadata['extras_require']['openmmlab']
    bounds = {name_of(line): match[1] for line in required if (match := re.search(r'>=([^,]+)', line))}
    assert {name_of(line) for line in required} == {*oldest} & {name_of(line) for line in required}
    for name, bound in bounds.items():
        assert oldest[name].removesuffix('.0') == bound.removesuffix('.0'), f'{name} is tested from {oldest[name]} on'
