"""Mends for defects of other libraries, without which these fail, or run code that a file brings.

Each mend is a module of this package that says what is defective, where this was seen and when the mend can go. It is
applied when the module that it mends is imported, or at once where that has happened already: ``import mmdefmamba``
imports no other library for the sake of a mend. DataLoader workers have the mends of their parent, however they are
started.

The environment variable ``MMDEFMAMBA_COMPAT`` leaves mends out: all of them with ``off``, some of them with their
names, separated by commas. It is read once, when mmdefmamba is imported.
"""

import functools
import importlib
import logging
import os
from typing import NamedTuple

from ..log import is_first_process
from ..names import unknown_name
from ..on_import import call_after_import

VARIABLE = 'MMDEFMAMBA_COMPAT'


class Mend(NamedTuple):
    """One mend: the modules whose import applies it, and what it does and why, as one line."""

    modules: tuple
    what: str


#: The mends by name. Each is a module of this package with a function ``apply(module)``, which returns whether the
#: imported module needed it, perhaps as a text for the log.
MENDS = {
    'data_workers': Mend(
        ('torch.utils.data._utils.worker',),
        'DataLoader workers end with their parent and have its mends; PyTorch lets them wait for ever for a parent '
        'that was killed',
    ),
    'find_loader': Mend(
        ('mmengine.utils.dl_utils.misc', 'mmcv.utils.ext_loader'),
        'MMEngine and mmcv look for compiled operators without pkgutil.find_loader, which Python 3.14 does not have',
    ),
    'fork_configs': Mend(
        ('mmengine.config.utils',),
        'configs of mmseg are found where a fork of mmsegmentation is installed, which has another name; MMEngine '
        'looks for the original name only',
    ),
    'inference_scope': Mend(
        ('mmdet.apis.inference', 'mmseg.apis.inference', 'mmpretrain.apis.base'),
        'inference functions of mmdet, mmseg and mmpretrain use the transforms of their own library; they would use '
        'those of the library whose model was loaded last',
    ),
    'logged_metrics': Mend(
        ('mmengine.hooks.logger_hook',),
        'the first process alone writes the metrics of a distributed test; in MMEngine all write one file at once',
    ),
    'mmcv_ops': Mend(
        ('mmcv',),
        'the operators of mmcv that mmdet, mmseg and mmpretrain call run on torchvision and PyTorch, since mmcv is '
        'installed without compiled operators; its other operators raise an error when they are called',
    ),
    'multimodal': Mend(
        ('mmpretrain.utils.dependency',),
        'the multimodal models of mmpretrain are switched off, since the installed transformers lacks what they import',
    ),
    'own_configs': Mend(
        ('mmengine.config.utils', 'mmengine.config.config'),
        "configs of this package are found by _base_ = 'mmdefmamba::...'; MMEngine finds those of a fixed list of "
        'packages only',
    ),
    'picture_names': Mend(
        ('mmengine.visualization.visualizer', 'mmcv'),
        'pictures of images whose file names are not valid UTF-8 get a name that is; such a name ends the process in '
        'OpenCV',
    ),
    'safe_loading': Mend(
        ('mmengine.runner.checkpoint',),
        'MMEngine loads checkpoints with weights_only=True and an allow-list, and downloads them within limits; '
        'its own loaders run code from the file, wait for ever and keep half a file',
    ),
    'thin_images': Mend(
        ('mmcv.image.geometric', 'mmcv.transforms.processing'),
        'mmcv scales each side of an image to at least one pixel; it would scale a thin image to 0 pixels and fail',
    ),
    'yaml_files': Mend(
        ('mmengine.fileio.handlers.yaml_handler',),
        'MMEngine reads YAML files without running code from them',
    ),
}
_LEFT_OUT, _WAITING, _APPLIED, _NOT_NEEDED = 'left out', 'waiting', 'applied', 'not needed'
_states = {}  # name -> {module: state}


class MendStatus(NamedTuple):
    """What :func:`status` says about a mend.

    Attributes:
        state: 'applied'; 'not needed', where the library is not defective in this environment; 'waiting', until one of
            ``modules`` is imported; 'left out' by ``MMDEFMAMBA_COMPAT``.
        modules: the modules that it mends.
        what: what it does and why.
    """

    state: str
    modules: tuple
    what: str


def status():
    """Return the :class:`MendStatus` of each mend by name.

    A mend of several modules is 'applied' as soon as it is applied to one of them.
    """
    statuses = {}
    for name, mend in MENDS.items():
        states = set(_states.get(name, {}).values()) or {_WAITING}
        state = next(state for state in (_LEFT_OUT, _APPLIED, _WAITING, _NOT_NEEDED) if state in states)
        statuses[name] = MendStatus(state, mend.modules, mend.what)
    return statuses


def apply():
    """Apply each mend to its modules: now, or when they are imported. A second call does nothing.

    Raises:
        ValueError: ``MMDEFMAMBA_COMPAT`` names a mend that does not exist.
    """
    left_out = _left_out(os.environ.get(VARIABLE, ''))
    for name, mend in MENDS.items():
        if name in _states:
            continue
        _states[name] = dict.fromkeys(mend.modules, _LEFT_OUT if name in left_out else _WAITING)
        if name not in left_out:
            for module in mend.modules:
                call_after_import(module, functools.partial(_apply, name))


def _left_out(value):
    names = {name.strip().lower() for name in value.split(',')} - {'', 'on'}
    if names == {'off'}:
        return set(MENDS)
    unknown = sorted(names - set(MENDS))
    if unknown:
        problem = f'environment variable {VARIABLE}={value!r}: there is no mend {unknown[0]!r}'
        remedy = f'It takes "off" or the names of mends to leave out, separated by commas: {", ".join(MENDS)}'
        raise ValueError(unknown_name(problem, unknown[0], MENDS, remedy))
    return names


def _apply(name, module):
    needed = importlib.import_module(f'.{name}', __package__).apply(module)
    first = _APPLIED not in _states[name].values()
    if needed or _states[name][module.__name__] != _APPLIED:
        _states[name][module.__name__] = _APPLIED if needed else _NOT_NEEDED
    if needed and first and is_first_process():
        detail = f' ({needed})' if isinstance(needed, str) else ''
        logging.getLogger('mmdefmamba.compat').info('mend %s: %s%s', name, MENDS[name].what, detail)


# Imported when asked for: they need MMEngine or PyTorch, which the mends do not import.
_LAZY = {
    'load_safely': 'safe_loading',
    'trust_checkpoints': 'safe_loading',
    'provide_mamba_ssm': 'mamba_stand_in',
}


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(f'.{_LAZY[name]}', __package__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
