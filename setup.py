"""The package's metadata, and how its C kernels are built; everything else is configured in pyproject.toml."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
# Import names, where they are not the distribution's.
IMPORT_NAMES = {'mmcv-lite': 'mmcv', 'mmsegmentation': 'mmseg'}

# Where the compiled C kernels go, below the root or the build folder.
LIBRARIES = 'mmdefmamba/ops/native/lib'


def read(path):
    return (ROOT / path).read_text('utf-8')


def requirements(name):
    lines = (line.split('#')[0].strip() for line in read(f'requirements/{name}.txt').splitlines())
    return [line for line in lines if line]


def unprovided(requirements):
    """Leave out what is there to import already, from whichever distribution.

    Full mmcv and mmcv-lite, and OpenMMLab's packages and their forks, have the same import names: pip would install
    one over the files of the other.
    """
    imports = {}
    for requirement in requirements:
        name = re.match(r'[\w-]+', requirement)[0]
        imports[requirement] = IMPORT_NAMES.get(name, name)
    code = f'from importlib.util import find_spec; print(*(n for n in {[*imports.values()]} if find_spec(n) is None))'
    # -E: without the PYTHONPATH behind which pip hides the environment that is installed into.
    missing = subprocess.run([sys.executable, '-E', '-c', code], check=True, stdout=subprocess.PIPE, text=True).stdout
    return [requirement for requirement, name in imports.items() if name in missing.split()]


class BuildKernels(build_ext):
    """Compile the kernels of mmdefmamba/ops/native: files with a plain C interface, which any Python can load."""

    def run(self):
        compiler = runpy.run_path(str(ROOT / 'mmdefmamba/ops/native/compile.py'))
        package = ROOT if self.inplace or self.editable_mode else Path(self.build_lib)
        try:
            compiler['compile_all'](package / LIBRARIES)
        except RuntimeError as error:  # the package works without them, and logs the reason
            self.warn(f'{error}\nThe C kernels were not built: scans on a CPU will be about eight times slower.')

    def get_outputs(self):
        return [] if self.inplace or self.editable_mode else [*map(str, Path(self.build_lib, LIBRARIES).glob('*'))]

    def get_output_mapping(self):
        return {}


class AnyPython(bdist_wheel):
    """Name the wheel for the machine alone: the kernels do not depend on the version of Python."""

    def get_tag(self):
        return 'py3', 'none', super().get_tag()[2]


setup(
    name='mmdefmamba',
    version=re.search(r"__version__ = '(.+)'", read('mmdefmamba/version.py'))[1],
    description='The DefMamba vision backbone for OpenMMLab: classification, detection, segmentation',
    long_description=read('README.md') if (ROOT / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords=['computer vision', 'mamba', 'state space model', 'backbone'],
    classifiers=[
        # The workflow for a public host tests each of these.
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Programming Language :: Python :: 3.14',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['mmdefmamba', 'mmdefmamba.*']),
    package_data={'mmdefmamba': ['report/*.jinja', 'ops/native/csrc/*']},
    ext_modules=[Extension('mmdefmamba.ops.native.lib.kernels', [])],
    cmdclass={'build_ext': BuildKernels, 'bdist_wheel': AnyPython},
    python_requires='>=3.10',
    install_requires=requirements('runtime') + unprovided(requirements('openmmlab')),
    extras_require={
        'app': ['gradio>=6'],  # tools/app.py
        'docs': ['mkdocs', 'mkdocstrings[python]'],
        'dev': ['hypothesis', 'playwright', 'pytest', 'pytest-xdist', 'ruff'],
        'mamba': ['mamba-ssm'],  # `make mamba-recipe` tells how to build its kernels
        'mmcv': ['mmcv>=2.0.0,<2.2.0'],  # docs/install.md tells how to build its operators
    },
)
