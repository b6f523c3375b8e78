"""Guards: checks of configs, data, checkpoints and runs that refuse or warn.

Importing this package registers the names of the hooks and changes nothing. A config asks for the guards with the base
file ``configs/_base_/guards.py``, which adds one :class:`GuardsHook`.
"""

from .checkpoint_fit import CheckpointFitHook
from .class_count import ClassCountHook
from .class_names import ClassNamesHook
from .config_keys import ConfigKeysHook
from .custom_keys import CustomKeysHook
from .every_image import EveryImageHook
from .finite_loss import FiniteLossHook
from .hook import GUARDS, GuardsHook
from .label_values import LabelValuesHook
from .metric_names import MetricNamesHook
from .resumed_schedule import ResumedScheduleHook

__all__ = [
    'GUARDS',
    'CheckpointFitHook',
    'ClassCountHook',
    'ClassNamesHook',
    'ConfigKeysHook',
    'CustomKeysHook',
    'EveryImageHook',
    'FiniteLossHook',
    'GuardsHook',
    'LabelValuesHook',
    'MetricNamesHook',
    'ResumedScheduleHook',
]
