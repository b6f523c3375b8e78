"""MMEngine and mmcv on Python 3.14.

Defect: both ask ``pkgutil.find_loader`` whether mmcv has compiled operators, a function that Python 3.14 removed. Every
optimizer that MMEngine builds asks this.
Seen in: mmengine 0.11.0rc3 and mmcv-lite 2.1.0, with Python 3.14.
Can go: when both use ``importlib.util.find_spec``.
"""

import functools
import importlib.util
import pkgutil

from .marks import replace

_EXTENSION = 'mmcv._ext'


def apply(module):
    """Replace the function of MMEngine's or mmcv's ``module`` that asks; returns whether this Python needs that."""
    if hasattr(pkgutil, 'find_loader'):
        return False
    name = next(name for name in ('mmcv_full_available', 'check_ops_exist') if hasattr(module, name))
    return replace(module, name, lambda old: functools.wraps(old)(_has_operators), 'find_loader')


def _has_operators():
    try:
        spec = importlib.util.find_spec(_EXTENSION)
    except ModuleNotFoundError:  # mmcv is not installed
        return False
    # a spec without a loader is that of the stand-in, see mmcv_ops
    return spec is not None and spec.loader is not None
