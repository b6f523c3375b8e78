"""Operators: functions on tensors, without modules, parameters or registries.

- :func:`selective_scan` scans sequences, :func:`multi_scan` scans maps, each in an order of its own, and
  :func:`merge_scans` averages and gates the results. :func:`gated_multi_scan` does both, with the projections before.
- :func:`sample_points` reads a map at continuous positions, :func:`sample_offsets` near its own tokens.
- :class:`TokenOrder`, :func:`permute_tokens`, :func:`restore_tokens` and :func:`learned_order` bring tokens into an
  order and back.
- :func:`selective_scan_fn` takes the arguments of mamba-ssm's function of this name.
- ``BACKENDS`` lists the backends of the scans. :func:`auto_backend` says which one ``backend='auto'`` takes and why,
  :func:`unavailable_reason` why a backend cannot run, and :func:`use_backend` sets one for a block of code.

Importing this package loads PyTorch and the standard library, nothing of OpenMMLab.
"""

from .mamba_interface import selective_scan_fn
from .map_scan import gated_multi_scan, multi_scan
from .merge import merge_scans
from .sampling import sample_offsets, sample_points
from .sequence_scan import BACKENDS, auto_backend, selective_scan, unavailable_reason, use_backend
from .token_order import TokenOrder, learned_order, permute_tokens, restore_tokens

__all__ = [
    'BACKENDS',
    'TokenOrder',
    'auto_backend',
    'gated_multi_scan',
    'learned_order',
    'merge_scans',
    'multi_scan',
    'permute_tokens',
    'restore_tokens',
    'sample_offsets',
    'sample_points',
    'selective_scan',
    'selective_scan_fn',
    'unavailable_reason',
    'use_backend',
]
