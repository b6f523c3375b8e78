"""Kernels of a bias and the exact GELU after a matrix product. The product is (rows, channels), contiguous."""

import triton
import triton.language as tl

from .functions import gelu_and_slope


@triton.jit(do_not_specialize=['rows'])
def gelu_forward(x, bias, out, rows, channels, R: tl.constexpr, C_BLOCK: tl.constexpr):
    """Compute out = GELU(x + bias) for R rows of a block of channels; ``out`` may be ``x``."""
    blocks = tl.cdiv(channels, C_BLOCK)
    c = tl.program_id(0) % blocks * C_BLOCK + tl.arange(0, C_BLOCK)[None, :]
    row = tl.program_id(0) // blocks * R + tl.arange(0, R)[:, None]
    inside = (row < rows) & (c < channels)
    place = row.to(tl.int64) * channels + c
    y = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    y += tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    y, _ = gelu_and_slope(y)
    tl.store(out + place, y.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=['rows', 'tiles', 'parts'])
def gelu_backward(dout, x, bias, dx, sums, rows, channels, tiles, parts, R: tl.constexpr, C_BLOCK: tl.constexpr):
    """Compute the gradient of x, and partial sums of the gradient of the bias, (parts, channels).

    A program adds up every so many tiles of a block of channels, always in the same order.
    """
    blocks = tl.cdiv(channels, C_BLOCK)
    part = tl.program_id(0) // blocks
    c = tl.program_id(0) % blocks * C_BLOCK + tl.arange(0, C_BLOCK)[None, :]
    added = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    dbias = tl.zeros([R, C_BLOCK], tl.float32)
    for tile in range(part, tiles, parts):
        row = tile * R + tl.arange(0, R)[:, None]
        inside = (row < rows) & (c < channels)
        place = row.to(tl.int64) * channels + c
        y = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) + added
        _, slope = gelu_and_slope(y)
        gradient = tl.load(dout + place, mask=inside, other=0.0).to(tl.float32) * slope
        tl.store(dx + place, gradient.to(dx.dtype.element_ty), mask=inside)
        dbias += gradient
    tl.store(sums + part * channels + c, tl.sum(dbias, 0)[None, :], mask=c < channels)
