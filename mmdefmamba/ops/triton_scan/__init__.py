"""The multi-scan as Triton kernels: channel-last, without gathered copies, and with nothing to compile at installation.

- ``blocks``, ``forward``, ``backward``, ``chunks``: the kernels.
- ``launch``: grids, buffers and strides of the kernels. It imports Triton, and is imported when a kernel first runs.
- ``layout``: limits, and the layout of the results.
- ``options``: what changes the speed of the launches and not what they compute.
- ``op``: registration with PyTorch (fake tensors, autograd), and the functions that callers use.
- ``merge_kernels``, ``merge_op``: the same for the mean over scans and its gate.
"""

from .merge_op import merge_scans_triton
from .op import grouped_scan_triton, multi_scan_triton, projected_scan_triton, unavailable_reason
from .options import ScanOptions, scan_options, use_scan_options

__all__ = [
    'ScanOptions',
    'grouped_scan_triton',
    'merge_scans_triton',
    'multi_scan_triton',
    'projected_scan_triton',
    'scan_options',
    'unavailable_reason',
    'use_scan_options',
]
