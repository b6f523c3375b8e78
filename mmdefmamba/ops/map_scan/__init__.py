"""The multi-scan: selective scans of several maps, each in its own order, alone or with the steps around it."""

from .gated import decay_rates, gated_multi_scan, reads_maps_apart, split_projections
from .multi import multi_scan

__all__ = ['decay_rates', 'gated_multi_scan', 'multi_scan', 'reads_maps_apart', 'split_projections']
