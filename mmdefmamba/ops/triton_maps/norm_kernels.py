"""Kernels of LayerNorm over the channels of a map, with additions before it and a GELU after it.

A map is (rows, channels), contiguous; a row is a token of an image. A program holds R rows of all channels in
registers, padded to a power of two, C_BLOCK. All of it is computed in float32.
"""

import triton
import triton.language as tl

from .functions import gelu_and_slope, quotient, sum_along, sum_of_squares


@triton.jit
def _rows(tile, rows, channels, R: tl.constexpr, C_BLOCK: tl.constexpr):
    """Return the row numbers (R, 1) of a tile, the places of its numbers (R, C_BLOCK), and which of them exist."""
    row = tile * R + tl.arange(0, R)[:, None]
    c = tl.arange(0, C_BLOCK)[None, :]
    return row, row.to(tl.int64) * channels + c, (row < rows) & (c < channels)


@triton.jit
def _standardised(x, inside, channels, eps):
    """Return rows with mean 0 and variance 1, zero where nothing is ``inside``, and 1 / standard deviation (R, 1)."""
    centred = tl.where(inside, x - quotient(sum_along(x, 1), channels)[:, None], 0.0)
    scale = tl.rsqrt(quotient(sum_of_squares(centred, 1), channels)[:, None] + eps)
    return centred * scale, scale


@triton.jit(do_not_specialize=['rows', 'rows_of_image'])
def norm_forward(
    x, branch, scale, shift, weight, bias, total, normed, rows, rows_of_image, channels, eps,
    R: tl.constexpr, C_BLOCK: tl.constexpr, HAS_BRANCH: tl.constexpr, HAS_SCALE: tl.constexpr,
    HAS_SHIFT: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    """Compute total = x + scale of the image * branch, and normed = LayerNorm(total + shift), or GELU of it."""
    row, place, inside = _rows(tl.program_id(0), rows, channels, R, C_BLOCK)
    c = tl.arange(0, C_BLOCK)[None, :]
    sum_of_row = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if HAS_BRANCH:
        added = tl.load(branch + place, mask=inside, other=0.0).to(tl.float32)
        if HAS_SCALE:
            added *= tl.load(scale + row // rows_of_image, mask=row < rows, other=0.0).to(tl.float32)
        rounded = (sum_of_row + added).to(total.dtype.element_ty)
        tl.store(total + place, rounded, mask=inside)
        sum_of_row = rounded.to(tl.float32)  # what the backward reads
    if HAS_SHIFT:
        sum_of_row += tl.load(shift + c, mask=c < channels, other=0.0).to(tl.float32)
    y, _ = _standardised(sum_of_row, inside, channels, eps)
    y *= tl.load(weight + c, mask=c < channels, other=0.0).to(tl.float32)
    y += tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    if GELU:
        y, _ = gelu_and_slope(y)
    tl.store(normed + place, y.to(normed.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=['rows', 'rows_of_image', 'tiles'])
def norm_backward(
    dtotal, dnormed, total, scale, shift, weight, bias, dx, dbranch, sums, rows, rows_of_image, channels, tiles, eps,
    R: tl.constexpr, C_BLOCK: tl.constexpr, HAS_DTOTAL: tl.constexpr, HAS_SCALE: tl.constexpr,
    HAS_SHIFT: tl.constexpr, HAS_DBRANCH: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of x and of the branch, and partial sums of those of weight, bias and shift.

    sums: (programs, 2 or with a shift 3, channels). A program adds up every so many tiles, always in the same order.
    """
    c = tl.arange(0, C_BLOCK)[None, :]
    gamma = tl.load(weight + c, mask=c < channels, other=0.0).to(tl.float32)
    if GELU:
        beta = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    dgamma = tl.zeros([R, C_BLOCK], tl.float32)
    dbeta = tl.zeros([R, C_BLOCK], tl.float32)
    if HAS_SHIFT:
        dshift = tl.zeros([R, C_BLOCK], tl.float32)
        added = tl.load(shift + c, mask=c < channels, other=0.0).to(tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row, place, inside = _rows(tile, rows, channels, R, C_BLOCK)
        sum_of_row = tl.load(total + place, mask=inside, other=0.0).to(tl.float32)
        if HAS_SHIFT:
            sum_of_row += added
        standard, inverse = _standardised(sum_of_row, inside, channels, eps)
        gradient = tl.load(dnormed + place, mask=inside, other=0.0).to(tl.float32)
        if GELU:
            _, slope_of_gelu = gelu_and_slope(standard * gamma + beta)
            gradient *= slope_of_gelu
        dgamma += gradient * standard
        dbeta += gradient
        gradient *= gamma
        mean = quotient(sum_along(gradient, 1), channels)[:, None]
        slope = quotient(sum_along(gradient * standard, 1), channels)[:, None]
        of_row = (gradient - mean - standard * slope) * inverse
        if HAS_SHIFT:
            dshift += tl.where(inside, of_row, 0.0)
        if HAS_DTOTAL:
            of_row += tl.load(dtotal + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + place, of_row.to(dx.dtype.element_ty), mask=inside)
        if HAS_DBRANCH:
            if HAS_SCALE:
                of_row *= tl.load(scale + row // rows_of_image, mask=row < rows, other=0.0).to(tl.float32)
            tl.store(dbranch + place, of_row.to(dbranch.dtype.element_ty), mask=inside)
    of_program = sums + tl.program_id(0) * (3 if HAS_SHIFT else 2) * channels + c
    tl.store(of_program, tl.sum(dgamma, 0)[None, :], mask=c < channels)
    tl.store(of_program + channels, tl.sum(dbeta, 0)[None, :], mask=c < channels)
    if HAS_SHIFT:
        tl.store(of_program + 2 * channels, tl.sum(dshift, 0)[None, :], mask=c < channels)
