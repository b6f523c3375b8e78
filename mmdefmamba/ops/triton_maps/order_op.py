"""The surrogate gradient of a learned order as an operator of PyTorch."""

import torch

from ..tensors import channel_last, check_offsets

# A warp has 8 tokens and reads 64 bytes of bfloat16 of each at once.
T, C_BLOCK = 32, 32


@torch.library.custom_op(
    'mmdefmamba::order_gradient', mutates_args=(), schema='(Tensor grad, Tensor order, bool released) -> Tensor'
)
def _order_gradient(grad, order, released):
    from .order_kernels import order_gradient

    grad = channel_last(grad)
    check_offsets('the gradient of the map', grad)
    out = _empty_gradient(grad, order, released)
    batch, length, channels = grad.shape
    with torch.cuda.device_of(grad):
        order_gradient[(batch * -(-length // T),)](
            *(grad, order.contiguous(), out, length, channels, grad.stride(0), grad.stride(1)),
            **dict(RELEASED=released, T=T, C_BLOCK=C_BLOCK),
        )
    return out


@_order_gradient.register_fake
def _empty_gradient(grad, order, released):
    return grad.new_empty(order.shape, dtype=torch.float32)


def order_gradient_triton(grad, order, released):
    """Return the gradient of the keys of a learned order from one kernel, see :func:`~mmdefmamba.ops.learned_order`.

    Args:
        grad: gradient of the map, (B, L, C), unit last stride, or it is copied.
        order: int32 or int64, (B, L).
        released: whether the gradient of a token at its own place is subtracted.

    Returns:
        (B, L), float32.
    """
    return torch.ops.mmdefmamba.order_gradient(grad, order, released)
