"""MMEngine and mmcv on Python 3.14.

Defect: both ask ``pkgutil.find_loader`` whether mmcv has compiled operators, a function that Python 3.14 removed. Every
optimizer that MMEngine builds asks this.
Seen in: mmengine 0.11.0rc3 and mmcv-lite 2.1.0, with Python 3.14.
Can go: when both use ``importlib.util.find_spec``, as onedl-mmengine 0.10.12 does.

The mend gives the two modules that ask a ``pkgutil`` of their own. Replacing their functions would not be enough: other
modules may have imported them by name before.
"""

import importlib.util
import pkgutil
from types import SimpleNamespace

from .marks import replace


def apply(module):
    """Give ``module`` of MMEngine or mmcv a pkgutil with find_loader; returns whether this Python needs that."""
    if hasattr(pkgutil, 'find_loader') or not hasattr(module, 'pkgutil'):
        return False
    return replace(module, 'pkgutil', _with_find_loader, 'find_loader')


def _with_find_loader(original):
    return SimpleNamespace(**vars(original) | {'find_loader': find_loader})


def find_loader(name):
    """Return the loader of a module, or None; as ``pkgutil.find_loader`` did until Python 3.13."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ImportError(f'cannot find the spec of {name!r}: {error}') from error
    return None if spec is None else spec.loader
