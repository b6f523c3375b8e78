"""What training and testing need beyond MMEngine's own parts."""

from .checkpoint_fit import CheckpointFitHook
from .class_count import ClassCountHook
from .custom_keys import CustomKeysHook
from .every_image import EveryImageHook
from .finite_loss import FiniteLossHook
from .pretrained import PretrainedInit
from .safe_checkpoints import SafeCheckpointHook, find_resumable_checkpoint
from .scan_visualization import ScanVisualizationHook
from .step_seeds import ResumableIterBasedTrainLoop, StepSeedHook

__all__ = [
    'CheckpointFitHook',
    'ClassCountHook',
    'CustomKeysHook',
    'EveryImageHook',
    'FiniteLossHook',
    'PretrainedInit',
    'ResumableIterBasedTrainLoop',
    'SafeCheckpointHook',
    'ScanVisualizationHook',
    'StepSeedHook',
    'find_resumable_checkpoint',
]
