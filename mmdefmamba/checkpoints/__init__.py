"""Checkpoints: whether one fits a model, pretrained weights, saving without loss, and what to resume from."""

from .fit import Fit, fit, state_dict_of
from .pretrained import load_pretrained
from .resuming import find_resumable_checkpoint, resume_if_possible
from .saving import AtomicLocalBackend, SafeCheckpointHook

__all__ = [
    'AtomicLocalBackend',
    'Fit',
    'SafeCheckpointHook',
    'find_resumable_checkpoint',
    'fit',
    'load_pretrained',
    'resume_if_possible',
    'state_dict_of',
]
