"""Checks of configs, data and runs that refuse or warn; a config asks for them (configs/_base_/guards.py)."""

from .checkpoint_fit import CheckpointFitHook
from .class_count import ClassCountHook
from .custom_keys import CustomKeysHook
from .every_image import EveryImageHook
from .finite_loss import FiniteLossHook

__all__ = ['CheckpointFitHook', 'ClassCountHook', 'CustomKeysHook', 'EveryImageHook', 'FiniteLossHook']
