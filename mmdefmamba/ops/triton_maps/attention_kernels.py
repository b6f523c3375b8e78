"""Kernels of the channel attention: the mean of a map, two small linear layers, and their gradients.

Legend: b image, l token, c channel, h hidden unit. Tensors: the map (b, l, c) with unit last stride; weights of the
linear layers fc1 (h, c) and fc2 (c, h), as nn.Linear has them; all results are float32.
"""

import triton
import triton.language as tl

from ..triton_scan.blocks import sigmoid_of
from .functions import gelu_and_slope, quotient, sum_along


@triton.jit(do_not_specialize=['length', 'part_length'])
def sum_of_parts(x, sums, length, channels, part_length, x_b, x_l, T: tl.constexpr, C_BLOCK: tl.constexpr):
    """Sum the tokens of a part of an image, for C_BLOCK channels; sums: (b, parts, c)."""
    blocks = tl.cdiv(channels, C_BLOCK)
    parts = tl.cdiv(length, part_length)
    part = tl.program_id(0) // blocks
    b = (part // parts).to(tl.int64)
    c = tl.program_id(0) % blocks * C_BLOCK + tl.arange(0, C_BLOCK)
    in_c = c < channels
    begin = part % parts * part_length
    end = tl.minimum(begin + part_length, length)
    total = tl.zeros([T, C_BLOCK], tl.float32)
    for first in range(begin, end, T):
        token = first + tl.arange(0, T)
        inside = (token < end)[:, None] & in_c[None, :]
        total += tl.load(x + b * x_b + token[:, None] * x_l + c[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(sums + part.to(tl.int64) * channels + c, tl.sum(total, 0), mask=in_c)


@triton.jit(do_not_specialize=['length', 'parts', 'hidden'])
def attention_forward(
    sums, fc1, bias1, fc2, bias2, weights, pooled, unit, length, parts, channels, hidden,
    H_BLOCK: tl.constexpr, C_PADDED: tl.constexpr,
):  # fmt: skip
    """Compute weights = sigmoid(fc2(GELU(fc1(mean)))) of one image, (b, c).

    The mean goes to ``pooled`` (b, c), and what enters the GELU to ``unit`` (b, h).
    """
    b = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, C_PADDED)
    in_c = c < channels
    mean = tl.zeros([C_PADDED], tl.float32)
    for part in range(parts):
        mean += tl.load(sums + (b * parts + part) * channels + c, mask=in_c, other=0.0)
    mean = quotient(mean, length)
    tl.store(pooled + b * channels + c, mean, mask=in_c)
    out = tl.load(bias2 + c, mask=in_c, other=0.0).to(tl.float32)
    for begin in range(0, hidden, H_BLOCK):
        h = begin + tl.arange(0, H_BLOCK)
        in_h = h < hidden
        inside = in_h[:, None] & in_c[None, :]
        fc1_hc = tl.load(fc1 + h[:, None] * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
        z_h = sum_along(fc1_hc * mean[None, :], 1) + tl.load(bias1 + h, mask=in_h, other=0.0).to(tl.float32)
        tl.store(unit + b * hidden + h, z_h, mask=in_h)
        active_h, _ = gelu_and_slope(z_h)
        fc2_hc = tl.load(fc2 + c[None, :] * hidden + h[:, None], mask=inside, other=0.0).to(tl.float32)
        out += sum_along(fc2_hc * active_h[:, None], 0)
    tl.store(weights + b * channels + c, sigmoid_of(out), mask=in_c)


@triton.jit(do_not_specialize=['length', 'hidden'])
def attention_backward(
    dweights, weights, unit, fc1, fc2, dmean, dout, dunit, active, length, channels, hidden,
    H_BLOCK: tl.constexpr, C_PADDED: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of one image: ``dmean`` (b, c) of each of its tokens, before the sigmoid, before the GELU.

    The last two, ``dout`` and ``dunit``, lie in one row (b, c + h). ``active`` (b, h) is the result of the GELU. They
    give the gradients of the linear layers.
    """
    b = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, C_PADDED)
    in_c = c < channels
    weight = tl.load(weights + b * channels + c, mask=in_c, other=0.0)
    gradient = tl.load(dweights + b * channels + c, mask=in_c, other=0.0) * weight * (1.0 - weight)
    row = b * (channels + hidden)
    tl.store(dout + row + c, gradient, mask=in_c)
    of_mean = tl.zeros([C_PADDED], tl.float32)
    for begin in range(0, hidden, H_BLOCK):
        h = begin + tl.arange(0, H_BLOCK)
        in_h = h < hidden
        inside = in_h[:, None] & in_c[None, :]
        active_h, slope_h = gelu_and_slope(tl.load(unit + b * hidden + h, mask=in_h, other=0.0))
        tl.store(active + b * hidden + h, active_h, mask=in_h)
        fc2_hc = tl.load(fc2 + c[None, :] * hidden + h[:, None], mask=inside, other=0.0).to(tl.float32)
        dz_h = sum_along(fc2_hc * gradient[None, :], 1) * slope_h
        tl.store(dunit + row + h, dz_h, mask=in_h)
        fc1_hc = tl.load(fc1 + h[:, None] * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
        of_mean += sum_along(fc1_hc * dz_h[:, None], 0)
    tl.store(dmean + b * channels + c, quotient(of_mean, length), mask=in_c)
