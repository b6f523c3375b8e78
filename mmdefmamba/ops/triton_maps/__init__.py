"""Triton kernels for what a block does to a channel-last map beside its scans.

Each part has two files: NAME_kernels, which imports Triton, and NAME_op, which registers the operator with PyTorch
(fake tensors, autograd) and imports NAME_kernels when it first runs. The plain path beside each operator is its
definition.
"""

from .attention_op import channel_attention_triton
from .depthwise_op import depthwise_conv_triton
from .gelu_op import bias_gelu_triton
from .head_op import offset_head_triton
from .norm_op import add_norm_triton, norm_triton
from .offset_op import sample_offsets_triton
from .order_op import order_gradient_triton
from .sum_op import sum_maps_triton

__all__ = [
    'add_norm_triton',
    'bias_gelu_triton',
    'channel_attention_triton',
    'depthwise_conv_triton',
    'norm_triton',
    'offset_head_triton',
    'order_gradient_triton',
    'sample_offsets_triton',
    'sum_maps_triton',
]
