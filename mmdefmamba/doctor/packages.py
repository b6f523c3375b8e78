"""Versions, conflicts between distributions, and what can be imported."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import platform
import sys
import sysconfig

from ..files import shown
from ..installed import DISTRIBUTIONS
from ..version import __version__
from .sections import in_one_line

#: Distributions whose versions are printed, besides those of OpenMMLab.
SHOWN = (
    'torch',
    'torchvision',
    'triton',
    'numpy',
    'timm',
    'mamba-ssm',
    'causal-conv1d',
    'onnx',
    'onnxruntime',
    'protobuf',
)
OPENCV = ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python', 'opencv-contrib-python-headless')
#: Requirements on these are checked for every installed distribution; others for the distributions that we need.
WATCHED = {'numpy', 'protobuf', 'torch', 'torchvision', 'mmcv', 'mmengine'}
#: What is imported, in this order: module, distribution to install if it is missing, and whether we need it.
IMPORTS = (
    ('numpy', 'numpy', True),
    ('torch', 'torch', True),
    ('triton', 'triton', False),
    ('torchvision', 'torchvision', False),
    ('cv2', 'opencv-python', False),
    ('pycocotools.mask', 'pycocotools', False),
    ('sklearn', 'scikit-learn', False),
    ('mmengine', 'mmengine', False),
    ('mmcv', 'mmcv-lite', False),
    ('mmcv.ops', 'mmcv-lite', False),
    ('mmpretrain.models', 'mmpretrain', False),
    ('mmdet.models', 'mmdet', False),
    ('mmseg.models', 'mmsegmentation', False),
    ('mmdefmamba.models', 'mmdefmamba', True),
)


def packages(report):
    """Versions of what is installed, from the metadata of the distributions; nothing is imported."""
    report.fact(
        'mmdefmamba', f'{__version__} in {importlib.util.find_spec("mmdefmamba").submodule_search_locations[0]}'
    )
    report.fact('Python', f'{platform.python_version()}, {sys.executable}')
    if not (3, 10) <= sys.version_info[:2] <= (3, 14):
        report.note(f'Python {platform.python_version()}: mmdefmamba was tested on 3.10 to 3.14')
    for name in SHOWN:
        report.fact(name, _version(report, name) or 'not installed')
    for module, names in DISTRIBUTIONS.items():
        _one_of(report, module, names, same_is_fine=False)
    _one_of(report, 'cv2', OPENCV, same_is_fine=True)
    _builds_fit(report)
    _requirements(report)


def _version(report, name):
    try:
        # not importlib.metadata.version: with the backport importlib_metadata it raises where there is no version
        version = importlib.metadata.metadata(name).get('Version')
    except importlib.metadata.PackageNotFoundError:
        return None
    except Exception as error:  # metadata can be damaged in any way
        report.problem(f'the metadata of {name} cannot be read: {in_one_line(error)}. Install it again')
        return None
    if not version:
        report.problem(f'the metadata of {name} has no version: an installation was cut short. Install it again')
    return version


def _one_of(report, module, names, same_is_fine):
    found = {name: version for name in names if (version := _version(report, name))}
    report.fact(module, ', '.join(f'{version} ({name})' for name, version in found.items()) or 'not installed')
    if len(found) > 1:
        text = (
            f'{" and ".join(f"{name} {version}" for name, version in found.items())} all have the module {module}, '
            f'one over the files of the other. Run: pip uninstall {" ".join(found)}, and install the one that you want'
        )
        (report.note if same_is_fine and len(set(found.values())) == 1 else report.problem)(text)


def _builds_fit(report):
    """torch and torchvision must be built for the same CUDA: their local versions say so, where they have one."""
    local = {}
    for name in ('torch', 'torchvision'):
        version = _version(report, name)
        if version and '+' in version:
            local[name] = version
    if len({version.partition('+')[2] for version in local.values()}) > 1:
        report.problem(
            f'torch {local["torch"]} and torchvision {local["torchvision"]} were built for different devices. Install '
            'both from the same index: pip install --force-reinstall torch torchvision --index-url URL'
        )


def _requirements(report):
    """Report requirements that the installed distributions do not meet."""
    try:
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name
    except ImportError:
        report.note('packaging is not installed, so requirements were not checked. Run: pip check')
        return
    ours = {'mmdefmamba', 'torchvision', *(name for names in DISTRIBUTIONS.values() for name in names)}
    for distribution in importlib.metadata.distributions():
        with contextlib.suppress(Exception):  # damaged metadata of a library that is none of ours
            name = canonicalize_name(distribution.metadata['Name'])
            for text in distribution.requires or ():
                requirement = Requirement(text)
                wanted = canonicalize_name(requirement.name)
                if not (name in ours or wanted in WATCHED):
                    continue
                if requirement.marker is not None and not requirement.marker.evaluate({'extra': ''}):
                    continue
                try:
                    found = importlib.metadata.version(wanted)
                except importlib.metadata.PackageNotFoundError:
                    found = None
                if found is not None and requirement.specifier.contains(found, prereleases=True):
                    continue
                said = f'{name} {distribution.version} needs {wanted}{requirement.specifier}, '
                said += 'which is not installed' if found is None else f'but {wanted} {found} is installed'
                serious = name == 'mmdefmamba' or (name == 'torchvision' and wanted == 'torch')
                (report.problem if serious else report.note)(
                    f'{said}. Run: pip install "{wanted}{requirement.specifier}"'
                )


def imports(report):
    """What can be imported, with the mends of mmdefmamba; and the state of these mends afterwards."""
    from .. import compat

    site = {sysconfig.get_path(name) for name in ('purelib', 'platlib')}
    for module, distribution, needed in IMPORTS:
        if not report.step(f'import {module}'):
            continue
        if _spec_error(module.partition('.')[0]) == 'missing':
            report.fact(module, 'not installed')
            if needed:
                report.problem(f'{module} is not installed. Run: pip install {distribution}')
            continue
        try:
            imported = importlib.import_module(module)
        except BaseException as error:  # also SystemExit
            report.fact(module, 'cannot be imported')
            report.problem(f'import {module} fails: {in_one_line(error)}')
            continue
        report.fact(module, 'can be imported')
        file = getattr(imported, '__file__', None) or ''
        if not any(file.startswith(folder) for folder in site) and module.partition('.')[0] in (
            'numpy',
            'torch',
            'cv2',
        ):
            report.note(
                f'{module} is imported from {shown(file or "a folder without code")}, not from the installed packages'
            )
    _numpy_reaches_torch(report)
    for name, mend in compat.status().items():
        report.fact(f'mend {name}', mend.state)
    left_out = [name for name, mend in compat.status().items() if mend.state == 'left out']
    if left_out:
        report.note(f'{compat.VARIABLE} leaves out the mends {", ".join(left_out)}')


def _spec_error(module):
    try:
        return None if importlib.util.find_spec(module) is not None else 'missing'
    except (ImportError, ValueError):
        return None  # the import itself says more


def _numpy_reaches_torch(report):
    torch, numpy = sys.modules.get('torch'), sys.modules.get('numpy')
    if torch is None or numpy is None or not report.step('torch.from_numpy'):
        return
    try:
        torch.from_numpy(numpy.zeros(2)).numpy()
    except Exception as error:
        versions = [getattr(module, '__version__', 'of an unknown version') for module in (torch, numpy)]
        report.problem(
            f'torch {versions[0]} and numpy {versions[1]} do not work together: {in_one_line(error)}. '
            'Install a newer torch, or: pip install "numpy<2"'
        )
