"""What the scan kernels share: where a scan's next tokens lie, the time step, rows of tiles that stay in registers.

Legend for all kernels: b image, k scan, l token, c channel, n state; T tokens of a tile, c_block channels of a program.
Tensors: u (b, 1 or k, l, c), delta and y (b, k, l, c), B and C (b, k, l, n), all with unit last stride; A (k, n, c).
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def scan_walk(walks, k):
    """The walk of scan ``k``, eight bits: 0 and 1 which source it reads, 2 backwards, 3 to 7 one plus its order."""
    return (walks.to(tl.int64) >> (8 * k)).to(tl.int32) & 255


@triton.jit
def scan_source(walk, u0, u1, u2, u3):
    """The map that a scan reads."""
    source = walk & 3
    if source == 1:
        u0 = u1
    if source == 2:
        u0 = u2
    if source == 3:
        u0 = u3
    return u0


@triton.jit
def token_places(walk, order, t, inside, length, HAS_ORDER: tl.constexpr):
    """Places on the map of the tokens that a scan visits at times ``t``.

    Row-major and its reverse are arithmetic: nothing is flipped.
    """
    place = tl.where((walk & 4) != 0, length - 1 - t, t)
    if HAS_ORDER:
        # a row of them: of a row and a scalar Triton 3.9 makes integers
        ordered = tl.zeros_like(t) + (walk >> 3) != 0
        place = tl.load(order + t, mask=inside & ordered, other=place)
    return place


@triton.jit
def sigmoid_of(x):
    return 1.0 / (1.0 + tl.exp2(x * -LOG2_E))


@triton.jit
def softplus(x):
    """max(x, 0) + log1p(exp(-|x|)), the logarithm as 2 artanh(e / (2 + e)).

    The plain log2(1 + e) would lose small time steps to rounding: at delta = 1e-3 all but four digits.
    """
    e = tl.exp2(tl.abs(x) * -LOG2_E)
    s = e / (2.0 + e)  # in [0, 1/3]
    q = s * s
    series = 1.0 / 13
    series = series * q + 1.0 / 11
    series = series * q + 1.0 / 9
    series = series * q + 1.0 / 7
    series = series * q + 1.0 / 5
    series = series * q + 1.0 / 3
    series = series * q + 1.0
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def time_step(raw, bias, inside, SOFTPLUS: tl.constexpr):
    """delta of a tile; zero for tokens beyond the end, which then leave the state as it is."""
    delta = raw + bias
    if SOFTPLUS:
        delta = softplus(delta)
    return tl.where(inside, delta, 0.0)


@triton.jit
def row(tile, t, i: tl.constexpr):
    """Row ``i`` of a float32 tile (T, ...), with ``t`` its row numbers.

    The rows lie in one thread's registers and ``i`` is a constant, so nothing is left of this in the compiled code: as
    integers, because x + 0 is x without doubt only there.
    """
    return tl.sum(tl.where(t == i, tile.to(tl.int32, bitcast=True), 0), 0).to(tl.float32, bitcast=True)


@triton.jit
def dot_states(x, y):
    """Sum over the states of x * y, (n, c) -> (c,), as four chains of fused multiply-adds.

    tl.sum(x * y, 0) adds pairs of products: a third more instructions.
    """
    four: tl.constexpr = tl.constexpr(4) if x.shape[0] >= 4 else tl.constexpr(1)
    x = tl.reshape(x, [x.shape[0] // four, four, x.shape[1]])
    y = tl.reshape(y, x.shape)
    j_row = tl.arange(0, x.shape[0])[:, None, None]
    total = row(x, j_row, 0) * row(y, j_row, 0)
    for j in tl.static_range(1, x.shape[0]):
        total += row(x, j_row, j) * row(y, j_row, j)
    return tl.sum(total, 0)
