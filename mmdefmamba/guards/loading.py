"""The guards on data loading: functions of the libraries that check more while a run asks for it.

A transform is called deep inside a dataset, often in a data worker, where no hook of MMEngine reaches. So these guards
take the place of functions of mmcv, MMEngine, mmdet and mmseg. While no guard is active, the functions do what they did
before. A guard is active as long as a :class:`~mmdefmamba.guards.GuardsHook` exists, and with it its runner.
"""

import contextlib
import functools
import importlib
from collections import Counter

from ..compat.data_workers import set_up_workers
from ..compat.marks import replace
from ..on_import import call_after_import
from .image_size import MAX_DATA_PIXELS

#: The guards by name: the module after whose import each is put into place. Each is a module of this package with a
#: function ``install(module)``.
LOADING_GUARDS = {
    'class_folders': 'mmpretrain.datasets.custom',
    'coco_annotations': 'mmdet.datasets.transforms.loading',
    'coco_files': 'mmdet.datasets.coco',
    'damaged_images': 'mmcv.transforms.loading',
    'label_maps': 'mmseg.datasets.transforms.loading',
    'map_folders': 'mmseg.datasets.basesegdataset',
    'sample_errors': 'mmengine.dataset.base_dataset',
}
_active = Counter()  # how many runs ask for each guard
_limits = {'max_pixels': MAX_DATA_PIXELS}
_installed = set()


def is_active(name):
    """Return whether a run of this process asks for a guard."""
    return _active[name] > 0


def max_pixels():
    """Return how many pixels an image of a data pipeline may have; None for no limit. The last run sets it."""
    return _limits['max_pixels']


def activate(names, max_pixels=MAX_DATA_PIXELS):
    """Let guards hold, here and in the data workers that start from now on, until as many calls of :func:`deactivate`.

    Args:
        names: names of ``LOADING_GUARDS``.
        max_pixels: see :func:`max_pixels`.
    """
    _limits['max_pixels'] = max_pixels
    for name in names:
        _active[name] += 1
        if name not in _installed:
            _installed.add(name)
            call_after_import(LOADING_GUARDS[name], functools.partial(_install, name))
    _tell_workers()


def deactivate(names):
    """The end of what :func:`activate` began."""
    for name in names:
        _active[name] -= 1
    _tell_workers()


@contextlib.contextmanager
def active_guards():
    """Let all guards on data loading hold inside the block."""
    activate(LOADING_GUARDS)
    try:
        yield
    finally:
        deactivate(LOADING_GUARDS)


def guarded(owner, name, guard, make):
    """Put a guard around a function of a library.

    Args:
        owner: the module or class that has the function.
        name: of the function.
        guard: name of the guard; while it is not active, the library's own function is called.
        make: a function that takes the library's function and returns the guarded one.
    """

    def switched(original):
        checking = make(original)

        @functools.wraps(original)
        def call(*args, **kwargs):
            return (checking if is_active(guard) else original)(*args, **kwargs)

        return call

    replace(owner, name, switched, guard)


def _install(name, module):
    importlib.import_module(f'.{name}', __package__).install(module)


def _tell_workers():
    names = tuple(name for name in LOADING_GUARDS if is_active(name))
    set_up_workers('guards', functools.partial(activate, names, max_pixels()) if names else None)
