"""Kernels of the head of the offset network: from its depthwise convolution to point offsets and sort keys.

Legend: b image, l token, c channel. Tensors: the map x (b, l, c) with unit last stride, the weights of the channel
attention ``scale`` (b, c), norm weight and bias (c,), the projection ``proj`` (rows, c), point offsets (b, l, 2) and
keys (b, l). The rows of ``proj`` are y and x of the points, if there are points, and then the order, if there is one.

A program has T tokens of one image. It walks over their channels, C_BLOCK at a time: first for mean and variance, then
again for the rest. The second walk finds the tile in the cache.
"""

import triton
import triton.language as tl

from .functions import gelu_and_slope, quotient, sum_along, sum_of_squares, tanh_of


@triton.jit
def _to_normalise(x, scale, place, in_l, c, in_c, HAS_SCALE: tl.constexpr, NORM_FIRST: tl.constexpr):
    """Return what the norm reads of a tile, the slope of the GELU before it, the tile as it is, and its weights.

    All are float32; what is outside is zero.
    """
    x_tc = tl.load(x + place[:, None] + c[None, :], mask=in_l[:, None] & in_c[None, :], other=0.0).to(tl.float32)
    scale_c = (
        tl.load(scale + c, mask=in_c, other=0.0).to(tl.float32) if HAS_SCALE else tl.full(c.shape, 1.0, tl.float32)
    )
    a = x_tc * scale_c[None, :]
    slope = tl.full(a.shape, 1.0, tl.float32)
    if not NORM_FIRST:
        a, slope = gelu_and_slope(a)
    return a, slope, x_tc, scale_c[None, :]


@triton.jit
def _norm_parameters(norm_weight, norm_bias, c, in_c):
    """Return weight and bias of the norm for some channels, float32."""
    weight_c = tl.load(norm_weight + c, mask=in_c, other=0.0).to(tl.float32)
    return weight_c, tl.load(norm_bias + c, mask=in_c, other=0.0).to(tl.float32)


@triton.jit
def _mean_and_rstd(
    x, scale, place, in_l, channels, eps,
    T: tl.constexpr, C_BLOCK: tl.constexpr, HAS_SCALE: tl.constexpr, NORM_FIRST: tl.constexpr,
):  # fmt: skip
    """Return mean and 1 / standard deviation of what the norm reads, (T,).

    Blocks of channels are joined by their means and squared deviations: a sum of squares would lose the variance of
    channels with a large mean.
    """
    mean = tl.zeros([T], tl.float32)
    squares = tl.zeros([T], tl.float32)
    for begin in range(0, channels, C_BLOCK):
        c = begin + tl.arange(0, C_BLOCK)
        in_c = c < channels
        a, _, _, _ = _to_normalise(x, scale, place, in_l, c, in_c, HAS_SCALE, NORM_FIRST)
        count = tl.minimum(C_BLOCK, channels - begin).to(tl.float32)
        total = begin + count
        of_block = quotient(sum_along(a, 1), count)
        deviation = tl.where(in_c[None, :], a - of_block[:, None], 0.0)
        step = of_block - mean
        mean += step * tl.div_rn(count, total)
        squares += sum_of_squares(deviation, 1) + step * step * (begin * count / total)
    deviation = tl.sqrt_rn(quotient(squares, channels) + eps)
    # zero where there is no token: with eps = 0 it would be infinite there
    return mean, tl.where(in_l, quotient(1.0 + tl.zeros_like(deviation), deviation), 0.0)


@triton.jit
def _reference_index(k, length, RELEASED: tl.constexpr):
    """Return the index of a token, normalised to [-1, 1], rounded as PyTorch rounds it."""
    index = k.to(tl.float32)
    if RELEASED:
        index += 0.5
    return quotient(index, tl.maximum(length - 1, 1)) * 2.0 - 1.0


@triton.jit(do_not_specialize=['length', 'height', 'width'])
def head_forward(
    x, scale, norm_weight, norm_bias, proj, points, keys, length, channels, height, width, x_b, x_l, eps,
    T: tl.constexpr, C_BLOCK: tl.constexpr, HAS_SCALE: tl.constexpr, NORM_FIRST: tl.constexpr,
    POINTS: tl.constexpr, ORDER: tl.constexpr, RELEASED: tl.constexpr,
):  # fmt: skip
    """Compute point offsets and sort keys. ``height`` and ``width`` are what the tanh of an offset is divided by."""
    tiles = tl.cdiv(length, T)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    token = tl.program_id(0) % tiles * T + tl.arange(0, T)
    in_l = token < length
    x += b * x_b
    scale += b * channels
    place = token * x_l
    mean, rstd = _mean_and_rstd(x, scale, place, in_l, channels, eps, T, C_BLOCK, HAS_SCALE, NORM_FIRST)
    y_tc = tl.zeros([T, C_BLOCK], tl.float32)
    x_tc = tl.zeros([T, C_BLOCK], tl.float32)
    order_tc = tl.zeros([T, C_BLOCK], tl.float32)
    for begin in range(0, channels, C_BLOCK):
        c = begin + tl.arange(0, C_BLOCK)
        in_c = c < channels
        a, _, _, _ = _to_normalise(x, scale, place, in_l, c, in_c, HAS_SCALE, NORM_FIRST)
        weight_c, bias_c = _norm_parameters(norm_weight, norm_bias, c, in_c)
        a = (a - mean[:, None]) * rstd[:, None] * weight_c[None, :] + bias_c[None, :]
        if NORM_FIRST:
            a, _ = gelu_and_slope(a)
        if POINTS:
            y_tc += a * tl.load(proj + c, mask=in_c, other=0.0).to(tl.float32)[None, :]
            x_tc += a * tl.load(proj + channels + c, mask=in_c, other=0.0).to(tl.float32)[None, :]
        if ORDER:
            order_tc += a * tl.load(proj + 2 * POINTS * channels + c, mask=in_c, other=0.0).to(tl.float32)[None, :]
    if POINTS:
        point = points + (b * length + token) * 2
        tl.store(point, quotient(tanh_of(tl.sum(y_tc, 1)), height), mask=in_l)
        tl.store(point + 1, quotient(tanh_of(tl.sum(x_tc, 1)), width), mask=in_l)
    if ORDER:
        key = tanh_of(tl.sum(order_tc, 1)) + _reference_index(token, length, RELEASED)
        tl.store(keys + b * length + token, key, mask=in_l)


@triton.jit
def _gradient_of_norm(
    a, mean, rstd, weight_c, bias_c, proj, c, in_c, channels, of_y, of_x, of_order,
    NORM_FIRST: tl.constexpr, POINTS: tl.constexpr, ORDER: tl.constexpr,
):  # fmt: skip
    """Return normalised numbers, what is projected, and the gradient of the norm's result, each (T, C_BLOCK).

    ``of_y``, ``of_x`` and ``of_order`` are the gradients of the projection's result, (T,).
    """
    of_projected = tl.zeros(a.shape, tl.float32)
    if POINTS:
        of_projected += of_y[:, None] * tl.load(proj + c, mask=in_c, other=0.0).to(tl.float32)[None, :]
        of_projected += of_x[:, None] * tl.load(proj + channels + c, mask=in_c, other=0.0).to(tl.float32)[None, :]
    if ORDER:
        row = proj + 2 * POINTS * channels
        of_projected += of_order[:, None] * tl.load(row + c, mask=in_c, other=0.0).to(tl.float32)[None, :]
    normal = (a - mean[:, None]) * rstd[:, None]
    projected = normal * weight_c[None, :] + bias_c[None, :]
    if NORM_FIRST:
        projected, slope = gelu_and_slope(projected)
        of_projected *= slope
    return normal, projected, of_projected


@triton.jit(do_not_specialize=['length', 'height', 'width'])
def head_backward(
    x, scale, norm_weight, norm_bias, proj, points, keys, of_points, of_keys, dx, dscale, sums,
    length, channels, height, width, x_b, x_l, eps,
    T: tl.constexpr, C_BLOCK: tl.constexpr, HAS_SCALE: tl.constexpr, NORM_FIRST: tl.constexpr,
    POINTS: tl.constexpr, ORDER: tl.constexpr, RELEASED: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of the map, and partial sums of all others: one row of them for each program.

    dscale: (b, tiles, c). sums: (b * tiles, rows of proj + 2, c), the last two are those of norm weight and bias. The
    tanh is taken from the results: offset times size, and key minus reference index.
    """
    tiles = tl.cdiv(length, T)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    token = tl.program_id(0) % tiles * T + tl.arange(0, T)
    in_l = token < length
    x += b * x_b
    scale += b * channels
    dx += b * length * channels
    dscale += tl.program_id(0).to(tl.int64) * channels
    sums += tl.program_id(0).to(tl.int64) * (2 * POINTS + ORDER + 2) * channels
    place = token * x_l
    mean, rstd = _mean_and_rstd(x, scale, place, in_l, channels, eps, T, C_BLOCK, HAS_SCALE, NORM_FIRST)

    of_y = tl.zeros([T], tl.float32)
    of_x = tl.zeros([T], tl.float32)
    of_order = tl.zeros([T], tl.float32)
    if POINTS:
        point = (b * length + token) * 2
        tanh_y = tl.load(points + point, mask=in_l, other=0.0) * height
        tanh_x = tl.load(points + point + 1, mask=in_l, other=0.0) * width
        of_y = quotient(tl.load(of_points + point, mask=in_l, other=0.0), height) * (1.0 - tanh_y * tanh_y)
        of_x = quotient(tl.load(of_points + point + 1, mask=in_l, other=0.0), width) * (1.0 - tanh_x * tanh_x)
    if ORDER:
        key = b * length + token
        tanh_key = tl.load(keys + key, mask=in_l, other=0.0) - _reference_index(token, length, RELEASED)
        of_order = tl.load(of_keys + key, mask=in_l, other=0.0) * (1.0 - tanh_key * tanh_key)

    mean_gradient = tl.zeros([T], tl.float32)
    mean_product = tl.zeros([T], tl.float32)
    for begin in range(0, channels, C_BLOCK):
        c = begin + tl.arange(0, C_BLOCK)
        in_c = c < channels
        a, _, _, _ = _to_normalise(x, scale, place, in_l, c, in_c, HAS_SCALE, NORM_FIRST)
        weight_c, bias_c = _norm_parameters(norm_weight, norm_bias, c, in_c)
        normal, projected, gradient = _gradient_of_norm(
            a, mean, rstd, weight_c, bias_c, proj, c, in_c, channels, of_y, of_x, of_order, NORM_FIRST, POINTS, ORDER
        )
        if POINTS:
            tl.store(sums + c, sum_along(projected * of_y[:, None], 0), mask=in_c)
            tl.store(sums + channels + c, sum_along(projected * of_x[:, None], 0), mask=in_c)
        if ORDER:
            tl.store(sums + 2 * POINTS * channels + c, sum_along(projected * of_order[:, None], 0), mask=in_c)
        row = sums + (2 * POINTS + ORDER) * channels
        tl.store(row + c, sum_along(gradient * normal, 0), mask=in_c)
        tl.store(row + channels + c, sum_along(gradient, 0), mask=in_c)
        gradient *= weight_c[None, :]
        mean_gradient += sum_along(gradient, 1)
        mean_product += sum_along(gradient * normal, 1)
    mean_gradient = quotient(mean_gradient, channels)
    mean_product = quotient(mean_product, channels)

    for begin in range(0, channels, C_BLOCK):
        c = begin + tl.arange(0, C_BLOCK)
        in_c = c < channels
        a, slope, x_tc, scale_c = _to_normalise(x, scale, place, in_l, c, in_c, HAS_SCALE, NORM_FIRST)
        weight_c, bias_c = _norm_parameters(norm_weight, norm_bias, c, in_c)
        normal, _, gradient = _gradient_of_norm(
            a, mean, rstd, weight_c, bias_c, proj, c, in_c, channels, of_y, of_x, of_order, NORM_FIRST, POINTS, ORDER
        )
        gradient = gradient * weight_c[None, :] - mean_gradient[:, None] - normal * mean_product[:, None]
        gradient *= rstd[:, None] * slope
        if HAS_SCALE:
            tl.store(dscale + c, sum_along(gradient * x_tc, 0), mask=in_c)
        tl.store(
            dx + token[:, None] * channels + c[None, :],
            (gradient * scale_c).to(dx.dtype.element_ty),
            mask=in_l[:, None] & in_c[None, :],
        )
