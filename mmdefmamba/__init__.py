"""DefMamba for OpenMMLab: one backbone for mmpretrain, mmdet and mmseg.

Importing the package mends what today's OpenMMLab stack needs mended (see :mod:`mmdefmamba.compat`) and registers
the backbone, its scans and its datasets in MMEngine's root registries, where all three libraries find them.
"""

from . import compat
from .version import __version__

compat.apply()

from . import models

__all__ = ['__version__']
