"""The multi-scan as C kernels for CPUs, compiled at installation: no compiler is needed on the machine.

- ``csrc``: the kernels. ``vectors.h`` and ``rows.h`` hold what they share; ``scan_forward.c``, ``scan_backward.c`` and
  ``sampling.c`` one operator each; ``jobs.c`` runs a kernel in several threads.
- ``compile``: compiles them, with the C compiler of the wheel ``ziglang``.
- ``library``, ``structs``: the compiled file that fits this CPU, PyTorch's threads, and what a kernel is told.
- ``scan_calls``, ``scan_op``, ``gated_op``, ``sampling_op``: registration with PyTorch (fake tensors, autograd), and
  the functions that callers use.
"""

from .gated_op import gated_multi_scan_native
from .library import unavailable_reason
from .sampling_op import sample_native
from .scan_op import multi_scan_native, selective_scan_native

__all__ = [
    'gated_multi_scan_native',
    'multi_scan_native',
    'sample_native',
    'selective_scan_native',
    'unavailable_reason',
]
