"""A stand-in for mamba-ssm's selective scan, so that other people's Mamba code runs where mamba-ssm has no kernel.

This is no mend: it does nothing until :func:`provide_mamba_ssm` is called.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
import types

import torch

from ..ops import mamba_interface

ROOT, OPS, INTERFACE = 'mamba_ssm', 'mamba_ssm.ops', 'mamba_ssm.ops.selective_scan_interface'
#: What the stand-in for the module ``INTERFACE`` has.
FUNCTIONS = (
    'selective_scan_fn',
    'selective_scan_ref',
    'mamba_inner_fn',
    'mamba_inner_fn_no_out_proj',
    'bimamba_inner_fn',
)
_logger = logging.getLogger('mmdefmamba.compat')
_provided = None


def provide_mamba_ssm():
    """Let ``from mamba_ssm.ops.selective_scan_interface import selective_scan_fn`` give mmdefmamba's function.

    Call it before the import of the code that needs mamba-ssm. It puts a stand-in into ``sys.modules`` where mamba-ssm
    is not installed, cannot be imported, or fails at a small scan on this machine's GPU (on its CPU if it has none).
    Where mamba-ssm works it does nothing. One line in the log (logger 'mmdefmamba.compat') says what it did and why.

    The stand-in has ``selective_scan_fn``, ``selective_scan_ref``, ``mamba_inner_fn`` and, for the code of Vim,
    ``mamba_inner_fn_no_out_proj`` and ``bimamba_inner_fn`` (:mod:`mmdefmamba.ops.mamba_interface`). If mamba-ssm is
    installed, its other modules, for example ``mamba_ssm.modules.mamba_simple``, are its own, and call the stand-in's
    functions. If it is not, they do not exist, and their import raises an ImportError that says so.

    Returns:
        A :class:`StandIn`. ``remove()`` puts ``sys.modules`` back as it was; so does the end of a ``with`` block.
    """
    global _provided
    if _provided is not None:
        _logger.info('mamba_ssm: the stand-in is there already')
        return StandIn('it is there already', None, {})
    before = _mamba_modules()
    reason = why_not_working()
    if reason is None:
        _logger.info('mamba_ssm: the installed package works on this machine, no stand-in is needed')
        return StandIn('the installed package works', None, {})
    real = _real_package(before)
    _take_out(_mamba_modules())
    problem, finder = None, _Finder(None if real else [])
    if real:
        problem = _error_of(lambda: _install(finder))
        if problem is not None:  # the stand-in takes the place of the package as well, its other modules stay
            _uninstall(finder, {})
            finder = _Finder(real)
    if not real or problem is not None:
        _install(finder)
    _provided = StandIn(reason, finder, before)
    others = f'; its other modules are its own, but it cannot be imported as a whole: {problem}' if problem else ''
    _logger.info('mamba_ssm: mmdefmamba provides %s (%s%s)', INTERFACE, reason, others)
    holders = _holders(before)
    if holders:
        _logger.warning(
            'mamba_ssm: %s imported functions of mamba_ssm before, and still have them. Call provide_mamba_ssm() '
            'before they are imported',
            ', '.join(holders),
        )
    return _provided


class StandIn:
    """What :func:`provide_mamba_ssm` did.

    Attributes:
        active: whether this object has a stand-in in ``sys.modules``.
        reason: why it has one, or why not.
    """

    def __init__(self, reason, finder, before):
        self.reason, self._finder, self._before = reason, finder, before

    @property
    def active(self):
        return self._finder is not None

    def remove(self):
        """Take the stand-in out of ``sys.modules``, and put back what was there. A second call does nothing.

        Modules that imported its functions keep them.
        """
        global _provided
        if self.active:
            _uninstall(self._finder, self._before)
            self._finder, _provided = None, None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.remove()

    def __repr__(self):
        return f'StandIn(active={self.active}, reason={self.reason!r})'


def why_not_working():
    """Return why mamba-ssm's ``selective_scan_fn`` does not work on this machine, or None if it does.

    ``sys.modules`` keeps no module of mamba-ssm that this function imported in vain.
    """
    before = _mamba_modules()
    if ROOT not in before:
        try:
            spec = importlib.util.find_spec(ROOT)
        except (ImportError, ValueError):
            spec = None
        if spec is None:
            return 'mamba-ssm is not installed'
    problem = _error_of(lambda: importlib.import_module(INTERFACE))
    if problem is not None:
        _take_out(_mamba_modules())
        sys.modules.update(before)
        return f'the installed mamba-ssm cannot be imported: {problem}'
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    problem = _error_of(lambda: _try_scan(sys.modules[INTERFACE].selective_scan_fn, device))
    return None if problem is None else f'its selective_scan_fn fails on {device}: {problem}'


def _try_scan(function, device):
    """Run a small scan of ones: y = [1, 1 + 1 / e] with u = delta = B = C = 1 and A = -1."""
    u, A = torch.ones(1, 1, 2, device=device), -torch.ones(1, 1, device=device)
    y = function(u, u, A, u, u)
    expected = torch.tensor([1, 1 + torch.tensor(-1.0).exp()])
    if not torch.allclose(y.detach().cpu().flatten().float(), expected, atol=1e-3):
        raise RuntimeError(f'it gives {y.flatten().tolist()} instead of {expected.tolist()}')


def _error_of(function):
    """Call a function; return the error in one line, or None. Foreign code may raise anything."""
    try:
        function()
    except Exception as error:
        return f'{type(error).__name__}: {error}'.splitlines()[0]
    return None


def _real_package(before):
    """Return the folders of the installed mamba-ssm, [] if there is none."""
    if ROOT in before:
        return list(getattr(before[ROOT], '__path__', []))
    spec = importlib.util.find_spec(ROOT)
    return list(spec.submodule_search_locations or []) if spec else []


def _mamba_modules():
    return {name: module for name, module in sys.modules.items() if name == ROOT or name.startswith(f'{ROOT}.')}


def _take_out(names):
    for name in list(names):
        sys.modules.pop(name, None)


def _install(finder):
    sys.meta_path.insert(0, finder)
    importlib.import_module(INTERFACE)


def _uninstall(finder, before):
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)
    _take_out(_mamba_modules())
    sys.modules.update(before)


def _holders(before):
    """Return the names of imported modules, other than mamba-ssm's, that hold something of these modules."""
    if not before:
        return []
    found = []
    for name, module in list(sys.modules.items()):
        values = list(getattr(module, '__dict__', {}).values()) if name.partition('.')[0] != ROOT else []
        # by their types: isinstance and getattr ask the objects, some of which warn or import something
        kinds = [x for x in values if issubclass(type(x), type | types.FunctionType)]
        if any(x.__module__ in before for x in kinds if isinstance(x.__module__, str)):
            found.append(name)
    return sorted(found)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the stand-in.

    Args:
        path: None where the packages around the stand-in are those of mamba-ssm. Otherwise they are empty modules, and
            this is the list of folders of mamba-ssm that has their other modules, [] if it is not installed.
    """

    def __init__(self, path):
        self.path = path

    def find_spec(self, name, path=None, target=None):
        if name == INTERFACE:
            return self._spec(name)
        if self.path is None or not (name == ROOT or name.startswith(f'{ROOT}.')):
            return None
        if name in (ROOT, OPS):
            spec = self._spec(name)
            spec.submodule_search_locations = [folder + name[len(ROOT) :].replace('.', '/') for folder in self.path]
            return spec
        if self.path:
            return None
        # its name is not that of the module: Python would swallow the error of `from mamba_ssm import Mamba`
        raise ModuleNotFoundError(
            f'{name} does not exist: mamba-ssm is not installed, and the stand-in of mmdefmamba has '
            f'{INTERFACE} alone. Install mamba-ssm, or leave out what needs this module',
            name=ROOT,
        )

    @staticmethod
    def _spec(name):
        return importlib.machinery.ModuleSpec(name, _Loader(), origin=__file__)


class _Loader(importlib.abc.Loader):
    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__file__ = __file__  # errors about missing names show it
        if module.__name__ == INTERFACE:
            module.__doc__ = "mmdefmamba's stand-in for the module of mamba-ssm."
            for name in FUNCTIONS:
                setattr(module, name, getattr(mamba_interface, name))
