"""How a run goes: distributed processes, random numbers of each step, rates of layers, loops, logs, hooks that draw."""

from .interruption import InterruptionHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .scan_visualization import ScanVisualizationHook
from .start_log import BriefRunner, StartSummaryHook
from .step_seeds import ResumableIterBasedTrainLoop, StepSeedHook

__all__ = [
    'BriefRunner',
    'InterruptionHook',
    'LayerDecayOptimWrapperConstructor',
    'ResumableIterBasedTrainLoop',
    'ScanVisualizationHook',
    'StartSummaryHook',
    'StepSeedHook',
]
