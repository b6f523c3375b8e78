"""The selective scan of Mamba (S6): one function, :func:`selective_scan`, with several backends."""

from .interface import BACKENDS, auto_backend, selective_scan, unavailable_reason, use_backend

__all__ = ['BACKENDS', 'auto_backend', 'selective_scan', 'unavailable_reason', 'use_backend']
