"""DefMamba for OpenMMLab: one backbone for mmpretrain, mmdet and mmseg.

``import mmdefmamba`` imports no other library. It does two things when the libraries concerned are imported, or at once
if they have been imported already: it mends what does not work in them (:mod:`mmdefmamba.compat`), and it registers the
backbone, the datasets and the hooks in MMEngine's root registries, where all three libraries find them, and the names
of the classifiers with mmpretrain.
"""

import importlib
import sys

from . import compat, installed, log, on_import, project
from .version import __version__

_FUNCTIONS = {'get_model': '.apis', 'list_models': '.apis'}
_ROOMS = (
    'analysis',
    'apis',
    'app',
    'checkpoints',
    'cli',
    'compat',
    'converters',
    'datasets',
    'doctor',
    'engine',
    'export',
    'guards',
    'models',
    'ops',
    'paper',
    'quickstart',
    'report',
    'scans',
    'visualization',
)
# The rooms that register names with MMEngine, by the module after whose import they are imported.
_REGISTERED = {
    'mmengine': ('models', 'datasets'),
    'mmengine.model': ('models',),
    'mmengine.dataset': ('datasets',),
    'mmengine.runner': ('engine', 'guards', 'checkpoints', 'converters'),
}

__all__ = ['__version__', *_FUNCTIONS, *_ROOMS]


def _register(module):
    # A room that imports MMEngine itself, for example mmdefmamba.scans, is not complete yet. The models need it, and
    # wait for mmengine.model.
    if module.__name__ == 'mmengine' and any(_is_being_imported(room) for room in _ROOMS):
        return
    for room in _REGISTERED[module.__name__]:
        importlib.import_module(f'.{room}', __name__)


def _register_names(module):
    """Let mmpretrain's functions take the names of our classifiers: ``mmpretrain.get_model('defmamba_t_in1k')``."""
    folder = project.project_folder()
    module.ModelHub.register_model_index(folder / 'configs/classification/metafile.yml', config_prefix=folder)


def _is_being_imported(room):
    spec = getattr(sys.modules.get(f'{__name__}.{room}'), '__spec__', None)
    return getattr(spec, '_initializing', False)


log.make_visible()
compat.apply()
for _module in _REGISTERED:
    on_import.call_after_import(_module, _register)
on_import.call_after_import('mmpretrain.apis.model', _register_names)
for _module in installed.DISTRIBUTIONS:
    on_import.call_after_import(_module, installed.warn_of_mixture)


def __getattr__(name):
    # imported when asked for: mmdefmamba.ops needs PyTorch alone, mmdefmamba.visualization matplotlib, and so on
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name], __name__), name)
    if name in _ROOMS:
        return importlib.import_module(f'.{name}', __name__)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
    return sorted({*globals(), *__all__})
