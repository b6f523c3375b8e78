"""DefMamba for OpenMMLab: one backbone for mmpretrain, mmdet and mmseg.

Importing the package mends what today's OpenMMLab stack needs mended (see :mod:`mmdefmamba.compat`) and registers
the backbone, its scans and its datasets in MMEngine's root registries, where all three libraries find them.
"""

from . import compat
from .version import __version__

compat.apply()  # before anything below imports mmcv or a registry

from . import apis, checkpoints, datasets, engine, guards, models  # noqa: E402
from .guards import damaged_images, sample_errors  # noqa: E402, F401

guards.damaged_images.apply()
guards.sample_errors.apply()

from .apis import get_model, list_models  # noqa: E402

__all__ = [
    '__version__',
    'apis',
    'checkpoints',
    'compat',
    'datasets',
    'engine',
    'get_model',
    'guards',
    'list_models',
    'models',
]
