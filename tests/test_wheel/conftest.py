"""A wheel that is built from a copy of the repository, and environments outside of the repository that have it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_COPIED = ('.git', '.venv', 'build', 'dist', 'site', 'work_dirs', 'data', '__pycache__', '*.egg-info', '.*_cache')
LIBRARIES = Path('mmdefmamba/ops/native/lib')
#: Beginnings of what the extra openmmlab installs: folders and metadata in site-packages.
OPENMMLAB = ('mmcv', 'mmdet', 'mmpretrain', 'mmseg', 'pycocotools', 'scikit_learn', 'sklearn', 'torchvision')
BUILD = 'import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))'


def site_packages():
    return {Path(sysconfig.get_path(name)) for name in ('purelib', 'platlib')}


def link_packages(folder, wanted):
    """Fill a folder with links to the installed packages whose names ``wanted`` accepts."""
    folder.mkdir()
    for packages in site_packages():
        for path in packages.iterdir():
            if wanted(path.name) and path.suffix != '.pth' and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope='session')
def source(tmp_path_factory):
    """Return a copy of the repository, with the kernels that its installation has compiled."""
    folder = tmp_path_factory.mktemp('source') / 'mmdefmamba'
    shutil.copytree(ROOT, folder, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED))
    return folder


@pytest.fixture(scope='session')
def build(tmp_path_factory):
    """Return ``build(source, kind, **environment)``, which calls a hook of setuptools and returns the file it makes."""

    def build(source, kind, *flags, **environment):
        out = tmp_path_factory.mktemp(kind)
        command = [sys.executable, *flags, '-c', BUILD, f'build_{kind}', str(out)]
        done = subprocess.run(
            command, cwd=source, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return out / done.stdout.splitlines()[-1]

    return build


@pytest.fixture(scope='session')
def wheel(build, source):
    """Return the wheel, built where all of OpenMMLab's libraries can be imported."""
    return build(source, 'wheel')


class Environment:
    """A virtual environment outside of the repository that has the wheel, and an empty folder to work in.

    Its other packages are those of ``packages``, folders that a ``.pth`` file names. Python processes no ``.pth`` file
    in them, so that an editable installation there is not seen.
    """

    def __init__(self, folder, wheel, packages):
        self.folder, self.work = folder / 'venv', folder / 'work'
        self.work.mkdir()
        venv.create(self.folder)
        self.python = self.folder / 'bin/python'
        options = ['--quiet', '--no-deps', '--no-index', '--no-compile', '--disable-pip-version-check']
        pip = [sys.executable, '-m', 'pip', '--python', str(self.python), 'install', *options, str(wheel)]
        subprocess.run(pip, check=True, timeout=300)
        (self.site,) = self.folder.glob('lib/python3.*/site-packages')
        (self.site / 'packages.pth').write_text(''.join(f'{path}\n' for path in packages))

    def run(self, *command, code=0):
        """Run a program of the environment in the empty folder; return (stdout, stderr). It must exit with ``code``."""
        env = {key: value for key, value in os.environ.items() if key not in ('PYTHONPATH', 'MMDEFMAMBA_COMPAT')}
        env['PATH'] = f'{self.folder / "bin"}{os.pathsep}{env["PATH"]}'
        command = [str(part) for part in command]
        done = subprocess.run(command, cwd=self.work, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, f'{done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}'
        return done.stdout, done.stderr


@pytest.fixture(scope='session')
def complete(wheel, tmp_path_factory):
    """Return an Environment with all packages of the running one."""
    return Environment(tmp_path_factory.mktemp('complete'), wheel, site_packages())


@pytest.fixture(scope='session')
def base(wheel, tmp_path_factory):
    """Return an Environment without what the extra openmmlab installs."""
    folder = tmp_path_factory.mktemp('base')
    packages = link_packages(folder / 'packages', lambda name: not name.startswith(OPENMMLAB))
    return Environment(folder, wheel, [packages])
