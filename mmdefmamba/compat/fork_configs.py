"""Configs of mmseg in an environment that has a fork of mmsegmentation.

Defect: MMEngine looks for ``mmseg::`` configs in the distribution ``mmsegmentation``. A fork has the same import name,
but another name as a distribution, and MMEngine says that mmsegmentation is not installed.
Seen in: onedl-mmengine 0.10.12 and mmengine 0.11.0rc3, with onedl-mmsegmentation 1.4.2.
Can go: when MMEngine looks for the import name.

The mend lets MMEngine look for the import name, which it also accepts.
"""

import importlib.metadata
import importlib.util


def apply(utils):
    """Give ``mmengine.config.utils`` the import names of forks; returns which, as a text, or False for none."""
    names = utils.MODULE2PACKAGE
    forks = [module for module, package in names.items() if module != package and _is_fork(module, package)]
    names.update({module: module for module in forks})
    return ', '.join(forks) or False


def _is_fork(module, package):
    """Return whether the module can be imported although the package that usually brings it is not installed."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return importlib.util.find_spec(module) is not None
    return False
