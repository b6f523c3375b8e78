"""The selective scan, the stable sort and the reading of a map as operators, each one node of an exported graph.

torch.export follows every operation of a network. A loop over tokens would become a graph for one length, the kernels
take pointers, and PyTorch takes a grid_sample apart into a hundred operations on free sizes each time it looks at the
graph. So the graph has these operators instead. They compute with the backends of this package, and
:mod:`mmdefmamba.export` writes them as ONNX functions of standard operators.

``is_exporting()`` decides, and nothing else: whoever exports a network gets these operators, and no
other call does. Their dtype is float32; an exported network has no gradients.
"""

import torch
import torch.nn.functional as F

from ..native import selective_scan_native
from ..native import unavailable_reason as native_unavailable_reason
from ..tensors import is_exporting
from . import triton_backend as triton
from .blockwise import selective_scan_blockwise

# The first that can run, runs: (scan, function that returns why it cannot). A program may be loaded on any device.
_BACKENDS = (
    (selective_scan_native, native_unavailable_reason),
    (triton.selective_scan_triton, triton.unavailable_reason),
    (selective_scan_blockwise, lambda u, states: None),
)


@torch.library.custom_op(
    'mmdefmamba::selective_scan',
    mutates_args=(),
    schema='(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C) -> Tensor',
)
def _selective_scan(u, delta, A, B, C):
    scan = next(scan for scan, reason in _BACKENDS if reason(u, A.shape[1]) is None)

    def channel_first(x):  # (b, K, L, X) -> (b, K, X, L)
        return x.transpose(2, 3)

    y = scan(
        channel_first(u).flatten(1, 2),
        channel_first(delta).flatten(1, 2),
        A.transpose(1, 2).flatten(0, 1),
        channel_first(B),
        *(channel_first(C), None, None, False),
    )
    return y.unflatten(1, (u.shape[1], -1)).transpose(2, 3).contiguous()


@_selective_scan.register_fake
def _(u, delta, A, B, C):
    return u.new_empty(u.shape)


@torch.library.custom_op('mmdefmamba::argsort', mutates_args=(), schema='(Tensor keys) -> Tensor')
def _argsort(keys):
    return keys.argsort(dim=-1, stable=True)


@_argsort.register_fake
def _(keys):
    return keys.new_empty(keys.shape, dtype=torch.int64)


@torch.library.custom_op('mmdefmamba::sample_points', mutates_args=(), schema='(Tensor x, Tensor grid) -> Tensor')
def _sample_points(x, grid):
    return _grid_sample(x, grid)


@_sample_points.register_fake
def _(x, grid):
    return x.new_empty((*x.shape[:2], *grid.shape[1:3]))


def grid_sample(x, grid):
    """Return what ``F.grid_sample`` computes, bilinear, zero outside, with aligned corners.

    Args:
        x: (batch, channels, height, width), float32 in an exported graph.
        grid: (x, y) in [-1, 1], (batch, out_height, out_width, 2), dtype of ``x``.

    Returns:
        (batch, channels, out_height, out_width).
    """
    if is_exporting():
        return torch.ops.mmdefmamba.sample_points(x, grid)
    return _grid_sample(x, grid)


def _grid_sample(x, grid):
    # F.grid_sample takes cuDNN for float32 on CUDA: it copies a channel-last map, and torch.compile cannot trace it for
    # free sizes
    bilinear, zeros = 0, 0
    return torch.grid_sampler_2d(x, grid, bilinear, zeros, True)


def scan_sequences(u, delta, A, B, C):
    """Run K selective scans of sequences that lie in scan order.

    Args:
        u: input, (b, K, L, C).
        delta: time step after bias and softplus, (b, K, L, C).
        A: decay rates, negative, (K, N, C).
        B, C: input and output weights, (b, K, L, N).

    Returns:
        (b, K, L, C), without the skip.
    """
    return torch.ops.mmdefmamba.selective_scan(u, delta, A, B, C)


def stable_argsort(keys):
    """Return the indices that sort the last dimension in ascending order; equal keys stay in their order.

    Args:
        keys: (L,) or (b, L), floating or int64.

    Returns:
        int64, the shape of ``keys``.
    """
    if not is_exporting():
        return keys.argsort(dim=-1, stable=True)
    rows = keys if keys.ndim == 2 else keys.unsqueeze(0)
    return torch.ops.mmdefmamba.argsort(rows).view(keys.shape)


def selective_scan_exported(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """Run a selective scan as one operator; arguments as of :func:`.interface.selective_scan`, checked there."""
    groups = B.shape[1]

    def channel_last(x):  # (b, K*c, L) -> (b, K, L, c)
        return x.unflatten(1, (groups, -1)).transpose(2, 3)

    delta = delta if delta_bias is None else delta + delta_bias.unsqueeze(-1)
    delta = F.softplus(delta) if delta_softplus else delta
    A = A.unflatten(0, (groups, -1)).transpose(1, 2)
    y = scan_sequences(channel_last(u), channel_last(delta), A, B.transpose(2, 3), C.transpose(2, 3))
    y = y.transpose(2, 3).flatten(1, 2)
    return y if D is None else y + u * D.unsqueeze(-1)
