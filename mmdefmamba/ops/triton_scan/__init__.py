"""The multi-scan as Triton kernels: nothing to compile at installation, no gathered copies, channel-last throughout.

- ``blocks``, ``forward``, ``backward``, ``chunks``: the kernels;
- ``launch``: their grids, buffers and strides; imported, and Triton with it, when a kernel is first needed;
- ``op``: registration with PyTorch (fake tensors, autograd), and the function that callers use;
- ``merge``, ``merge_op``: the same for the mean over scans and its gate.
"""

from .merge_op import merge_scans_triton
from .op import grouped_scan_triton, multi_scan_triton, unavailable_reason

__all__ = ['grouped_scan_triton', 'merge_scans_triton', 'multi_scan_triton', 'unavailable_reason']
