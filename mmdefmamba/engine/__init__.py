"""How a run goes: distributed processes, random numbers of each step, loops, and hooks that draw."""

from .scan_visualization import ScanVisualizationHook
from .step_seeds import ResumableIterBasedTrainLoop, StepSeedHook

__all__ = ['ResumableIterBasedTrainLoop', 'ScanVisualizationHook', 'StepSeedHook']
