"""The package's metadata, and how its C kernels are built; everything else is configured in pyproject.toml."""

import re
import runpy
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# Where the compiled C kernels go, below the root or the build folder.
LIBRARIES = 'mmdefmamba/ops/native/lib'
COMPILER = 'mmdefmamba/ops/native/compile.py'


def read(path):
    return (ROOT / path).read_text('utf-8')


def requirements(name):
    lines = (line.split('#')[0].strip() for line in read(f'requirements/{name}.txt').splitlines())
    return [line for line in lines if line]


def long_description():
    """Return README.md without what only works in the repository: relative links become text, pictures go."""
    text = re.sub(
        r'^(?:!\[[^]]*\]\((?!https?:)[^)]*\) ?)+\n\n(\*[^*]+\*\n\n)?', '', read('README.md'), flags=re.MULTILINE
    )
    return re.sub(r'(?<!!)\[([^]]*)\]\((?!https?:)[^)]*\)', r'\1', text)


def project_files():
    """Return the files of the repository that an installed package has as well, in ``.mim``."""
    folders = [path for name in ('configs', 'tools') for path in (ROOT / name).rglob('*')]
    kept = [path for path in folders if path.suffix in ('.py', '.sh', '.yml', '.md')]
    return sorted(path.relative_to(ROOT) for path in (ROOT / 'model-index.yml', *kept))


class BuildPackage(build_py):
    """Copy the configs, the tools and the index of models to ``.mim``, where MMEngine and mim look for them.

    A clone has links to them there. An editable installation makes the links where they are missing: a source archive
    has none.
    """

    def run(self):
        super().run()
        if self.editable_mode:
            self._link()
        else:
            for source, target in self._targets().items():
                target.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(source, str(target))

    def get_outputs(self, include_bytecode=True):
        return [*super().get_outputs(include_bytecode), *map(str, self._targets().values())]

    def get_source_files(self):
        return [*super().get_source_files(), *self._targets()]

    def _link(self):
        for name in ('configs', 'tools', 'model-index.yml'):
            link = ROOT / 'mmdefmamba/.mim' / name
            if not link.exists():
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(Path('../..', name), target_is_directory=(ROOT / name).is_dir())

    def _targets(self):
        return {str(file): Path(self.build_lib, 'mmdefmamba/.mim', file) for file in project_files()}


class BuildKernels(build_ext):
    """Compile the kernels of mmdefmamba/ops/native: files with a plain C interface, which any Python can load."""

    def run(self):
        compiler = runpy.run_path(str(ROOT / COMPILER))
        package = ROOT if self.inplace or self.editable_mode else Path(self.build_lib)
        if compiler['up_to_date'](ROOT / LIBRARIES):  # an editable installation has compiled these sources before
            if package != ROOT:
                self.copy_tree(str(ROOT / LIBRARIES), str(package / LIBRARIES))
            return
        try:
            compiler['compile_all'](package / LIBRARIES)
        except RuntimeError as error:  # the package works without them, and logs the reason
            self.warn(f'{error}\nThe C kernels were not built: scans on a CPU will be about eight times slower.')

    def get_outputs(self):
        return [] if self.inplace or self.editable_mode else [*map(str, Path(self.build_lib, LIBRARIES).glob('*'))]

    def get_output_mapping(self):
        return {}


class AnyPython(bdist_wheel):
    """Name the wheel for the machine alone: the kernels do not depend on the version of Python.

    With kernels, its name says for which glibc they are, as PyPI demands. Outside of Linux there are none.
    """

    def get_tag(self):
        platform = super().get_tag()[2]
        if not platform.startswith('linux'):
            return 'py3', 'none', 'any'
        glibc = runpy.run_path(str(ROOT / COMPILER))['GLIBC'].replace('.', '_')
        built = any(Path(self.bdist_dir, LIBRARIES).glob('*.so'))
        return 'py3', 'none', platform.replace('linux', f'manylinux_{glibc}') if built else platform


setup(
    name='mmdefmamba',
    version=re.search(r"__version__ = '(.+)'", read('mmdefmamba/version.py'))[1],
    description='The DefMamba vision backbone for OpenMMLab: classification, detection, segmentation',
    long_description=long_description(),
    long_description_content_type='text/markdown',
    license_expression='Apache-2.0',
    license_files=['LICENSE'],
    project_urls={'Paper': 'https://arxiv.org/abs/2504.05794'},
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
    cmdclass={'build_ext': BuildKernels, 'build_py': BuildPackage, 'bdist_wheel': AnyPython},
    entry_points={'console_scripts': ['mmdefmamba = mmdefmamba.cli.command:main']},
    python_requires='>=3.10',
    install_requires=requirements('runtime'),
    extras_require={
        'openmmlab': requirements('openmmlab'),  # the three tasks
        'app': ['gradio>=6'],  # tools/app.py
        'docs': ['mkdocs', 'mkdocs-material', 'mkdocstrings[python]'],
        'export': ['onnx', 'onnxscript', 'onnxruntime'],  # tools/export.py
        'timm': ['safetensors>=0.4', 'timm>=1.0.31'],  # mmdefmamba.timm
        'safetensors': ['safetensors>=0.4'],
        # setuptools: a test builds the wheel
        'dev': ['hypothesis', 'playwright', 'pytest', 'pytest-xdist', 'ruff', 'setuptools>=77.0.3'],
        'mamba': ['mamba-ssm'],  # `make mamba-recipe` tells how to build its kernels
        # the three tasks beside full mmcv, over which mmcv-lite would be installed
        'mmcv': [line.replace('mmcv-lite', 'mmcv') for line in requirements('openmmlab')],
    },
)
