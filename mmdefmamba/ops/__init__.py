"""Numbers only: functions on tensors, without modules, parameters or registries."""

from .map_scan import multi_scan
from .merge import merge_scans
from .sampling import sample_points
from .sequence_scan import selective_scan
from .token_order import TokenOrder, learned_order, permute_tokens, restore_tokens

__all__ = [
    'TokenOrder',
    'learned_order',
    'merge_scans',
    'multi_scan',
    'permute_tokens',
    'restore_tokens',
    'sample_points',
    'selective_scan',
]
