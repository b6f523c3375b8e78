"""The multi-scan as Triton kernels: nothing to compile at installation, no gathered copies, channel-last throughout.

- ``blocks``, ``forward``, ``backward``, ``chunks``: the kernels;
- ``launch``: their grids, buffers and strides; the only module that imports them, and with them Triton;
- ``op``: registration with PyTorch (fake tensors, autograd), and the function that callers use.
"""

from .op import grouped_scan_triton, multi_scan_triton, unavailable_reason

__all__ = ['grouped_scan_triton', 'multi_scan_triton', 'unavailable_reason']
