"""A map with several readers, whose gradients are added up in one pass over memory."""

import torch

from .sequence_scan.interface import prefers_triton
from .tensors import needs_gradient
from .triton_maps import sum_maps_triton


def fan_out(x, readers):
    """Return a map once for each of its readers.

    Autograd adds up the gradients of a map with several readers in pairs, and each addition reads two maps and writes
    one. Where the Triton kernels run (see :func:`~mmdefmamba.ops.sequence_scan.interface.prefers_triton`) and a
    gradient is needed, one kernel reads all of them, adds in float32, and writes their sum. Readers without a gradient
    are skipped.

    Args:
        x: (B, C, H, W).
        readers: how many tensors are wanted.

    Returns:
        A list of views of ``x``; elsewhere, and for one reader, of ``x`` itself.
    """
    if readers > 1 and needs_gradient(x) and prefers_triton(x):
        return list(_FanOut.apply(x, readers))
    return [x] * readers


class _FanOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, readers):
        ctx.set_materialize_grads(False)
        return tuple(x.view_as(x) for _ in range(readers))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        gradients = [gradient for gradient in gradients if gradient is not None]
        if len(gradients) < 2:
            return gradients[0] if gradients else None, None
        total = sum_maps_triton([gradient.flatten(2).transpose(1, 2) for gradient in gradients])
        return total.transpose(1, 2).unflatten(2, gradients[0].shape[2:]), None
