"""Kernels of a depthwise convolution on channel-last maps: forward, and the gradients of its input and its weights.

Legend: b image, h row, w column, c channel; i and j row and column of a kernel of KH x KW weights. A map is
(b, h, w, c) with unit last stride, the weights are (i, j, c). A strip is T neighbouring columns of one row. The strips
of an image are numbered downwards, then to the right, so that neighbours read the same rows. A program computes G
strips of C_BLOCK channels. Each thread holds whole strips of a few channels in registers. It reads each of their
columns once per row of the kernel and uses it for up to KW products.
"""

# ruff: noqa: RUF005  Triton's language has no starred expressions

import triton
import triton.language as tl

from ..triton_scan.blocks import sigmoid_of


@triton.jit
def _places(tile, height, width, T: tl.constexpr, G: tl.constexpr):
    """Return row, first column and validity of the strips of a tile, each (G, 1)."""
    strip = tile * G + tl.arange(0, G)[:, None]
    first = strip // height * T
    return strip % height, first, first < width


@triton.jit
def _column(row_of_x, row_inside, w, width, x_w, c, c_inside):
    """Return a column of the strips, (G, C_BLOCK), in float32; zero beside the map."""
    inside = row_inside & (w >= 0) & (w < width) & c_inside
    return tl.load(row_of_x + (w * x_w + c), mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _convolved(
    x, weight, bias, h, first, inside, c, c_inside, height, width, channels, x_h, x_w,
    KH: tl.constexpr, KW: tl.constexpr, T: tl.constexpr, FLIP: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Return the convolution of strips of the image ``x``, a tuple of T columns (G, C_BLOCK), in float32."""
    start = tl.zeros([h.shape[0], c.shape[1]], tl.float32)
    if HAS_BIAS:
        start += tl.load(bias + c, mask=c_inside, other=0.0).to(tl.float32)
    total = (start,) * T
    for i in range(KH):
        row = h + (i - KH // 2)
        row_inside = inside & (row >= 0) & (row < height)
        row_of_x = x + row.to(tl.int64) * x_h
        row_of_weight = weight + ((KH - 1 - i) if FLIP else i) * KW * channels
        weights = ()
        for j in tl.static_range(KW):
            place = (KW - 1 - j if FLIP else j) * channels + c
            weights = weights + (tl.load(row_of_weight + place, mask=c_inside, other=0.0).to(tl.float32),)
        for k in tl.static_range(T + KW - 1):
            column = _column(row_of_x, row_inside, first + (k - KW // 2), width, x_w, c, c_inside)
            new = ()
            for o in tl.static_range(T):
                y = total[o]
                if o <= k and k - o < KW:
                    y += column * weights[k - o]
                new = new + (y,)
            total = new
    return total


@triton.jit(do_not_specialize=['height', 'width', 'tiles'])
def depthwise_forward(
    x, weight, bias, out, height, width, channels, tiles, x_b, x_h, x_w,
    KH: tl.constexpr, KW: tl.constexpr, T: tl.constexpr, G: tl.constexpr, C_BLOCK: tl.constexpr,
    FLIP: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Compute out = convolution of x plus bias, and with SILU the SiLU of it. FLIP turns the kernel by half a turn."""
    blocks = tl.cdiv(channels, C_BLOCK)
    tile = tl.program_id(0) // blocks % tiles
    b = (tl.program_id(0) // (blocks * tiles)).to(tl.int64)
    c = tl.program_id(0) % blocks * C_BLOCK + tl.arange(0, C_BLOCK)[None, :]
    c_inside = c < channels
    h, first, inside = _places(tile, height, width, T, G)
    total = _convolved(
        x + b * x_b, weight, bias, h, first, inside, c, c_inside, height, width, channels, x_h, x_w,
        KH, KW, T, FLIP, HAS_BIAS,
    )  # fmt: skip
    row_of_out = out + (b * height + h) * width * channels
    for o in tl.static_range(T):
        y = total[o]
        if SILU:
            y = y * sigmoid_of(y)
        w = first + o
        tl.store(row_of_out + (w * channels + c), y.to(out.dtype.element_ty), mask=(w < width) & c_inside)


@triton.jit(do_not_specialize=['height', 'width', 'tiles', 'splits'])
def depthwise_backward(
    dout, x, weight, bias, dlinear, sums, height, width, channels, tiles, splits, dout_b, dout_h, dout_w, x_b, x_h, x_w,
    KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, T: tl.constexpr, G: tl.constexpr, C_BLOCK: tl.constexpr,
    HAS_BIAS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Compute partial sums of the gradients of weights and bias: ROWS rows of the kernel, over a part of an image.

    sums: (images * splits, KH * KW + 1, channels), the bias last. With SILU the convolution is computed again, and its
    gradient, before the SiLU, is written to ``dlinear`` (b, h, w, c).
    """
    blocks = tl.cdiv(channels, C_BLOCK)
    groups: tl.constexpr = (KH + ROWS - 1) // ROWS
    group = tl.program_id(0) // blocks % groups
    part = tl.program_id(0) // (blocks * groups)
    b = (part // splits).to(tl.int64)
    c = tl.program_id(0) % blocks * C_BLOCK + tl.arange(0, C_BLOCK)[None, :]
    c_inside = c < channels
    x += b * x_b
    zero = tl.zeros([G, C_BLOCK], tl.float32)
    dbias = zero
    dweight = (zero,) * (ROWS * KW)
    for tile in range(part % splits, tiles, splits):
        h, first, inside = _places(tile, height, width, T, G)
        row_of_dout = dout + b * dout_b + h.to(tl.int64) * dout_h
        gradient = ()
        for o in tl.static_range(T):
            gradient = gradient + (_column(row_of_dout, inside, first + o, width, dout_w, c, c_inside),)
        if SILU:
            linear = _convolved(
                x, weight, bias, h, first, inside, c, c_inside, height, width, channels, x_h, x_w,
                KH, KW, T, False, HAS_BIAS,
            )  # fmt: skip
            row_of_dlinear = dlinear + (b * height + h) * width * channels
            of_linear = ()
            for o in tl.static_range(T):
                sigmoid = sigmoid_of(linear[o])
                dy = gradient[o] * sigmoid * (1.0 + linear[o] * (1.0 - sigmoid))
                w = first + o
                of_linear = of_linear + (tl.where(w < width, dy, 0.0),)
                stored = (w < width) & c_inside & (group == 0)
                tl.store(row_of_dlinear + (w * channels + c), dy.to(dlinear.dtype.element_ty), mask=stored)
            gradient = of_linear
        for o in tl.static_range(T):
            dbias += gradient[o]
        total = ()
        for i in tl.static_range(ROWS):
            row_of_weights = ()
            for j in tl.static_range(KW):
                row_of_weights = row_of_weights + (dweight[i * KW + j],)
            row = h + (group * ROWS + i - KH // 2)
            row_inside = inside & (row >= 0) & (row < height) & (group * ROWS + i < KH)
            row_of_x = x + row.to(tl.int64) * x_h
            for k in tl.static_range(T + KW - 1):
                column = _column(row_of_x, row_inside, first + (k - KW // 2), width, x_w, c, c_inside)
                new = ()
                for j in tl.static_range(KW):
                    of_weight = row_of_weights[j]
                    if k - j >= 0 and k - j < T:
                        of_weight += column * gradient[k - j]
                    new = new + (of_weight,)
                row_of_weights = new
            total = total + row_of_weights
        dweight = total
    row_of_sums = sums + part.to(tl.int64) * (KH * KW + 1) * channels
    for n in tl.static_range(ROWS * KW):
        place = group * ROWS * KW + n
        stored = c_inside & (place < KH * KW)
        tl.store(row_of_sums + place * channels + c, tl.sum(dweight[n], 0)[None, :], mask=stored)
    tl.store(row_of_sums + KH * KW * channels + c, tl.sum(dbias, 0)[None, :], mask=c_inside & (group == 0))
