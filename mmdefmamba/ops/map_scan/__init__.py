"""The multi-scan: selective scans of several maps, each in its own order. One function, :func:`multi_scan`."""

from .multi import multi_scan

__all__ = ['multi_scan']
