"""The split of a matrix product into neighbouring columns, whose gradients need no copy where they lie side by side."""

import torch

from .sequence_scan.interface import prefers_triton
from .tensors import needs_gradient


def split_columns(x, size):
    """Split a tensor along its last dimension into views of ``size`` columns each, as ``x.split(size, dim=-1)`` does.

    The gradient of a split is a copy of its parts into one tensor. The Triton scans write the gradients of all their
    projections side by side; where they run, the gradient of ``x`` is a view of that.

    Args:
        x: (..., columns).
        size: columns of a part, a divisor of ``columns``.

    Returns:
        A tuple of views.
    """
    if needs_gradient(x) and prefers_triton(x) and not torch.compiler.is_compiling():
        return _SplitColumns.apply(x, size)
    return x.split(size, dim=-1)


class _SplitColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, size):
        return x.split(size, dim=-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        return _joined(gradients), None


def _joined(parts):
    """Return parts side by side in one tensor: a view if they lie so already."""
    first, size = parts[0], parts[0].shape[-1]
    if first.stride(-1) == 1 and all(
        part.untyped_storage() is first.untyped_storage()
        and part.stride() == first.stride()
        and part.storage_offset() == first.storage_offset() + i * size
        for i, part in enumerate(parts)
    ):
        return first.as_strided((*first.shape[:-1], len(parts) * size), first.stride())
    return torch.cat(parts, dim=-1)
