"""Functions that are called after the import of a module, without importing it.

The package wrapt has such hooks as well. Its finder imports the parent of each module that it looks for, which let two
threads wait for each other for ever when both imported MMEngine.
"""

import sys
from importlib.abc import MetaPathFinder

_functions = {}  # name of a module -> the functions that its import calls


def call_after_import(name, function):
    """Call a function with a module after each import of it: now if it is imported already, and after a reload.

    Args:
        name: full name of the module.
        function: takes the module.
    """
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    _functions.setdefault(name, []).append(function)
    if sys.modules.get(name) is not None:
        function(sys.modules[name])


class _Finder(MetaPathFinder):
    """Finds the modules that functions wait for, by asking the finders after it."""

    def find_spec(self, name, path, target=None):
        if name not in _functions:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, 'exec_module'):
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader:
    """A module's own loader, which it gets back before it is executed, and the functions afterwards."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        for function in _functions[module.__name__]:
            function(module)


_FINDER = _Finder()
