"""Triton kernels for what a block does to a channel-last map beside its scans.

Each part has two files: NAME_kernels, which imports Triton, and NAME_op, which registers the operator with PyTorch
(fake tensors, autograd) and imports NAME_kernels when it first runs. The plain path beside each operator is its
definition.
"""

from .depthwise_op import depthwise_conv_triton
from .offset_op import sample_offsets_triton

__all__ = ['depthwise_conv_triton', 'sample_offsets_triton']
