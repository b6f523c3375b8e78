"""The selective scan of Mamba (S6) behind one function, :func:`selective_scan`, with exchangeable backends."""

from .interface import BACKENDS, auto_backend, selective_scan, unavailable_reason, use_backend

__all__ = ['BACKENDS', 'auto_backend', 'selective_scan', 'unavailable_reason', 'use_backend']
