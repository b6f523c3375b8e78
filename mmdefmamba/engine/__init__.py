"""What training and testing need beyond MMEngine's own parts."""

from .class_count import ClassCountHook
from .pretrained import PretrainedInit
from .safe_checkpoints import SafeCheckpointHook, find_resumable_checkpoint
from .scan_visualization import ScanVisualizationHook
from .step_seeds import ResumableIterBasedTrainLoop, StepSeedHook

__all__ = [
    'ClassCountHook',
    'PretrainedInit',
    'ResumableIterBasedTrainLoop',
    'SafeCheckpointHook',
    'ScanVisualizationHook',
    'StepSeedHook',
    'find_resumable_checkpoint',
]
