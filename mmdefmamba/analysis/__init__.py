"""Numbers about a network: what it costs, and what it does with an image."""

from .activation import activation_map
from .complexity import complexity
from .config_complexity import config_complexity, flops_text, format_complexity
from .layer_activation import ActivationMaps, activation_maps, layer_activation_maps
from .offsets import BlockOffsets, offset_statistics
from .receptive_field import effective_receptive_field
from .trace import BlockTrace, trace_blocks

__all__ = [
    'ActivationMaps',
    'BlockOffsets',
    'BlockTrace',
    'activation_map',
    'activation_maps',
    'complexity',
    'config_complexity',
    'effective_receptive_field',
    'flops_text',
    'format_complexity',
    'layer_activation_maps',
    'offset_statistics',
    'trace_blocks',
]
