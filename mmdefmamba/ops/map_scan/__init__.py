"""Selective scans of several maps, each walked in an order of its own, behind one function, :func:`multi_scan`."""

from .multi import multi_scan

__all__ = ['multi_scan']
