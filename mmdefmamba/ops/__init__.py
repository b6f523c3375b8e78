"""Numbers only: functions on tensors, without modules, parameters or registries."""

from .sampling import sample_points
from .selective_scan import selective_scan
from .token_order import TokenOrder, order_by_index, permute_tokens, restore_tokens

__all__ = [
    'TokenOrder',
    'order_by_index',
    'permute_tokens',
    'restore_tokens',
    'sample_points',
    'selective_scan',
]
