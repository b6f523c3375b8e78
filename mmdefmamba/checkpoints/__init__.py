"""Checkpoints: whether one fits a model, saving and resuming, pretrained weights, and the authors' released files."""

from .pretrained import PretrainedInit
from .released import convert_file, convert_released, export_released, infer_network
from .saving import AtomicLocalBackend, SafeCheckpointHook, find_resumable_checkpoint

__all__ = [
    'AtomicLocalBackend',
    'PretrainedInit',
    'SafeCheckpointHook',
    'convert_file',
    'convert_released',
    'export_released',
    'find_resumable_checkpoint',
    'infer_network',
]
