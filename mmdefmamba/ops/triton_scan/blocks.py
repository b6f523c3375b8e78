"""Device functions that the scan kernels share: places of tokens, the time step, rows of tiles in registers.

Legend for all kernels: b image, k scan, l token, c channel, n state; T tokens of a tile, C_BLOCK channels of a program.
Tensors: u (b, 1 or k, l, c), delta and y (b, k, l, c), for each scan rows (b, l, r + 2n), all with unit last stride;
A (k, n, c). A row has, of one token, the r numbers from which its time step is projected, then its B, then its C.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)

#: Arguments of the kernels that walk over tokens, for the decorator: integers for which none is compiled anew, and what
#: none expects to be aligned. Without a promise of alignment each lane reads its own channel of each token, as the
#: recurrence needs it. With a promise Triton reads vectors and exchanges them between lanes, which takes longer than
#: the narrow reads.
UNSPECIALIZED = ['walks', *(f'rows{i}_{stride}' for stride in 'bl' for i in range(4))]
UNALIGNED = [*(f'u{i}' for i in range(4)), *(f'rows{i}' for i in range(4)), 'delta', 'dt_weight', 'A', 'bias']


@triton.jit
def program_place(channels, scans, chunks, C_BLOCK: tl.constexpr, PARTS: tl.constexpr):
    """Return what a program works on: its block of channels, its chunk, and its scan and image in 64 bits.

    All of it lies in the first dimension of the grid, which takes 2^31 programs; the others take 65,535. Each block of
    channels has PARTS neighbouring programs; then block * PARTS + part stands for the block.
    """
    program = tl.program_id(0)
    blocks = tl.cdiv(channels, C_BLOCK) * PARTS
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
def scan_rows(k, b, rows0, rows1, rows2, rows3, rows0_b, rows1_b, rows2_b, rows3_b, rows0_l, rows1_l, rows2_l, rows3_l):
    """Return the rows of a scan and image, and the distance from one to the next."""
    image, pitch = rows0_b.to(tl.int64), rows0_l.to(tl.int32)
    if k == 1:
        rows0, image, pitch = rows1, rows1_b.to(tl.int64), rows1_l.to(tl.int32)
    if k == 2:
        rows0, image, pitch = rows2, rows2_b.to(tl.int64), rows2_l.to(tl.int32)
    if k == 3:
        rows0, image, pitch = rows3, rows3_b.to(tl.int64), rows3_l.to(tl.int32)
    return rows0 + b * image, pitch


@triton.jit
def token_places(walk, order, t, inside, length, HAS_ORDER: tl.constexpr):
    """Return the places on the map of the tokens that a scan visits at times ``t``.

    Places of the row-major order and its reverse are computed, so no map has to be flipped.
    """
    place = tl.where((walk & 4) != 0, length - 1 - t, t)
    if HAS_ORDER:
        # a row, not a scalar: from a row and a scalar Triton 3.9 makes integers instead of booleans
        ordered = tl.zeros_like(t) + (walk >> 3) != 0
        place = tl.load(order + t, mask=inside & ordered, other=place).to(tl.int32)
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
def decay_exponents(A, inside, LOG_RATES: tl.constexpr):
    """Return A times log2(e) from its places in memory; zero where nothing is ``inside``.

    With LOG_RATES the tensor has log(-A), as the network keeps it.
    """
    rates = tl.load(A, mask=inside, other=0.0)
    if LOG_RATES:
        rates = tl.where(inside, -tl.exp2(rates * LOG2_E), 0.0)
    return rates * LOG2_E


@triton.jit
def step_weights(dt_weight, k, c, in_c, channels, RANK: tl.constexpr, RANK_PADDED: tl.constexpr):
    """Return the weights (r, c) of the time step's projection, or 0 if the time step is read (RANK = 0)."""
    weights = 0.0
    if RANK > 0:
        r = tl.arange(0, RANK_PADDED)
        inside = (r < RANK)[:, None] & in_c[None, :]
        at = dt_weight + k * channels * RANK + c[None, :] * RANK + r[:, None]
        weights = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    return weights


@triton.jit
def read_steps(
    delta, rows, place, delta_l, rows_l, in_t, in_c, RANK: tl.constexpr, RANK_PADDED: tl.constexpr
):  # fmt: skip
    """Read what the time steps of a tile are made of: themselves (t, c), or the numbers (r, t) to project."""
    if RANK > 0:
        r = tl.arange(0, RANK_PADDED)
        inside = (r < RANK)[:, None] & in_t[None, :]
        read = tl.load(rows + place[None, :] * rows_l + r[:, None], mask=inside, other=0.0)
    else:
        read = tl.load(delta + place[:, None] * delta_l, mask=in_t[:, None] & in_c[None, :], other=0.0)
    return read


@triton.jit
def raw_steps(read, weights, RANK: tl.constexpr):
    """Return the time steps of a tile before bias and softplus, (t, c), in float32, from what was read.

    A projection adds its products in the order of their columns.
    """
    read = read.to(tl.float32)
    if RANK > 0:
        R: tl.constexpr = read.shape[0]
        SHAPE: tl.constexpr = [R, read.shape[1], weights.shape[1]]
        r_tile = tl.arange(0, R)[:, None, None]
        numbers = tl.broadcast_to(read[:, :, None], SHAPE)
        weights = tl.broadcast_to(weights[:, None, :], SHAPE)
        read = row(numbers, r_tile, 0) * row(weights, r_tile, 0)
        for i in tl.static_range(1, RANK):
            read += row(numbers, r_tile, i) * row(weights, r_tile, i)
    return read


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
