"""The kernel of the surrogate gradient of a learned order: one read of the gradient of the map, for 'released' two."""

import triton
import triton.language as tl

from .functions import quotient


@triton.jit
def _mean_of_rows(grad, place, inside, channels, grad_l, T: tl.constexpr, C_BLOCK: tl.constexpr):
    """Return the mean over channels of the tokens at ``place``, (T,), in float32."""
    total = tl.zeros([T, C_BLOCK], tl.float32)
    for begin in range(0, channels, C_BLOCK):
        c = begin + tl.arange(0, C_BLOCK)
        mask = inside[:, None] & (c < channels)[None, :]
        total += tl.load(grad + place[:, None] * grad_l + c[None, :], mask=mask, other=0.0).to(tl.float32)
    return quotient(tl.sum(total, 1), channels)


@triton.jit(do_not_specialize=['length'])
def order_gradient(
    grad, order, out, length, channels, grad_b, grad_l, RELEASED: tl.constexpr, T: tl.constexpr, C_BLOCK: tl.constexpr
):
    """Compute the gradient of T keys of one image; grad (b, l, c) with unit last stride, order and out (b, l)."""
    tiles = tl.cdiv(length, T)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    k = tl.program_id(0) % tiles * T + tl.arange(0, T)
    inside = k < length
    grad += b * grad_b
    place = tl.load(order + b * length + k, mask=inside, other=0).to(tl.int32)
    gradient = _mean_of_rows(grad, place, inside, channels, grad_l, T, C_BLOCK)
    if RELEASED:
        gradient -= _mean_of_rows(grad, k, inside, channels, grad_l, T, C_BLOCK)
    tl.store(out + b * length + k, gradient, mask=inside)
