"""``_base_ = 'mmdefmamba::...'`` in any config, as for the configs of OpenMMLab's libraries.

Defect: MMEngine finds the configs of a fixed list of packages. For any other package, ``package::`` in ``_base_`` is an
AssertionError, and there is no function that adds a package.
Seen in: mmengine 0.11.0rc3 and onedl-mmengine 0.10.12.
Can go: when MMEngine finds the configs of every installed package.

The mend adds this package to the list. MMEngine would also look up each class of such a config in a registry of the
scope ``mmdefmamba``, which does not exist. With the mend, ``mmdefmamba::`` gives the config that its path gives.
"""

import functools

from .marks import replace

PACKAGE = 'mmdefmamba'


def apply(module):
    """Mend ``mmengine.config.utils``, which has the list, or ``mmengine.config.config``, which gives the scope."""
    if module.__name__.endswith('.utils'):
        return module.MODULE2PACKAGE.setdefault(PACKAGE, PACKAGE) == PACKAGE
    return replace(module.Config, '_get_cfg_path', _without_scope, 'own_configs')


def _without_scope(find):
    # not a static method as the original: that could not carry the mark, and MMEngine calls it on the class
    @functools.wraps(find)
    def find_config(cfg_path, filename):
        path, scope = find(cfg_path, filename)
        return path, None if scope == PACKAGE else scope

    return find_config
