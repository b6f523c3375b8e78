"""The multi-scan: selective scans of several maps, each in its own order, alone or with the steps around it."""

from .gated import decay_rates, gated_multi_scan, split_projections
from .multi import multi_scan

__all__ = ['decay_rates', 'gated_multi_scan', 'multi_scan', 'split_projections']
