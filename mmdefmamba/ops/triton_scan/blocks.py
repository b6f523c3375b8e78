"""Device functions that the scan kernels share: places of tokens, the time step, rows of tiles in registers.

Legend for all kernels: b image, k scan, l token, c channel, n state; T tokens of a tile, C_BLOCK channels of a program.
Tensors: u (b, 1 or k, l, c), delta and y (b, k, l, c), B and C (b, k, l, n), all with unit last stride; A (k, n, c).
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def program_place(channels, scans, chunks, C_BLOCK: tl.constexpr):
    """Return what a program works on: its block of channels, its chunk, and its scan and image in 64 bits.

    All of it lies in the first dimension of the grid, which takes 2^31 programs; the others take 65,535.
    """
    program = tl.program_id(0)
    blocks = tl.cdiv(channels, C_BLOCK)
    row = program // blocks // chunks
    # scans may lie further apart than 32 bits reach
    return program % blocks, program // blocks % chunks, (row % scans).to(tl.int64), (row // scans).to(tl.int64)


@triton.jit
def scan_walk(walks, k):
    """Return the walk of scan ``k``, eight bits: 0 and 1 its source, 2 backwards, 3 to 7 one plus its row of order."""
    return (walks.to(tl.int64) >> (8 * k)).to(tl.int32) & 255


@triton.jit
def scan_source(walk, u0, u1, u2, u3):
    """Return the map that a scan reads."""
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
    """Return the places on the map of the tokens that a scan visits at times ``t``.

    Places of the row-major order and its reverse are computed, so no map has to be flipped.
    """
    place = tl.where((walk & 4) != 0, length - 1 - t, t)
    if HAS_ORDER:
        # a row, not a scalar: from a row and a scalar Triton 3.9 makes integers instead of booleans
        ordered = tl.zeros_like(t) + (walk >> 3) != 0
        place = tl.load(order + t, mask=inside & ordered, other=place)
    return place


@triton.jit
def sigmoid_of(x):
    """Return sigmoid(x)."""
    return 1.0 / (1.0 + tl.exp2(x * -LOG2_E))


@triton.jit
def softplus(x):
    """Return max(x, 0) + log1p(exp(-|x|)), with the logarithm as 2 artanh(e / (2 + e)).

    The plain log2(1 + e) would round small time steps: at delta = 1e-3 only four digits would be right.
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
    """Return delta of a tile. It is zero for tokens beyond the end, which then do not change the state."""
    delta = raw + bias
    if SOFTPLUS:
        delta = softplus(delta)
    return tl.where(inside, delta, 0.0)


@triton.jit
def row(tile, t, i: tl.constexpr):
    """Return row ``i`` of a float32 tile (T, ...); ``t`` holds the row numbers.

    The rows lie in the registers of one thread and ``i`` is a constant, so the compiler removes this sum altogether. It
    can do so for integers only, where x + 0 is always x.
    """
    return tl.sum(tl.where(t == i, tile.to(tl.int32, bitcast=True), 0), 0).to(tl.float32, bitcast=True)


@triton.jit
def dot_states(x, y):
    """Return the sum over the states of x * y, (n, c) -> (c,), as four chains of fused multiply-adds.

    tl.sum(x * y, 0) adds pairs of products, which takes a third more instructions.
    """
    four: tl.constexpr = tl.constexpr(4) if x.shape[0] >= 4 else tl.constexpr(1)
    x = tl.reshape(x, [x.shape[0] // four, four, x.shape[1]])
    y = tl.reshape(y, x.shape)
    j_row = tl.arange(0, x.shape[0])[:, None, None]
    total = row(x, j_row, 0) * row(y, j_row, 0)
    for j in tl.static_range(1, x.shape[0]):
        total += row(x, j_row, j) * row(y, j_row, j)
    return tl.sum(total, 0)
