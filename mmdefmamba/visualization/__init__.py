"""All figures: functions that take images, traces or measurements and return a matplotlib Figure."""

from ..analysis.trace import BlockTrace, trace_blocks
from .activation_figure import draw_activation_map, draw_activation_map_to_edge, draw_activation_maps
from .architecture import draw_architecture
from .canvas import figure_to_rgb, map_to_image, token_at
from .digit_rows import draw_digits
from .fields import draw_receptive_fields
from .limitations import draw_limitation_cases, limitation_cases
from .orders import draw_scan_order, draw_static_scans
from .points import draw_points, draw_points_to_edge
from .statistics import draw_offset_statistics

__all__ = [
    'BlockTrace',
    'draw_activation_map',
    'draw_activation_map_to_edge',
    'draw_activation_maps',
    'draw_architecture',
    'draw_digits',
    'draw_limitation_cases',
    'draw_offset_statistics',
    'draw_points',
    'draw_points_to_edge',
    'draw_receptive_fields',
    'draw_scan_order',
    'draw_static_scans',
    'figure_to_rgb',
    'limitation_cases',
    'map_to_image',
    'token_at',
    'trace_blocks',
]
