"""The backward kernel. It recomputes the states from checkpoints, tile by tile, and carries the gradients backwards."""

import triton
import triton.language as tl

from .blocks import (
    LN_2,
    UNALIGNED,
    UNSPECIALIZED,
    decay_exponents,
    program_place,
    raw_steps,
    read_steps,
    row,
    scan_rows,
    scan_source,
    scan_walk,
    sigmoid_of,
    step_weights,
    time_step,
    token_places,
)


@triton.jit
def spread_channels(x_tc, N_HIGH: tl.constexpr, N_LOW: tl.constexpr, C_HIGH: tl.constexpr, C_LOW: tl.constexpr):
    """Broadcast (t, c) -> (t, n_high, c_high, n_low, c_low)."""
    T: tl.constexpr = x_tc.shape[0]
    x = tl.reshape(x_tc, [T, C_HIGH, C_LOW])[:, None, :, None, :]
    return tl.broadcast_to(x, [T, N_HIGH, C_HIGH, N_LOW, C_LOW])


@triton.jit
def spread_states(x_tn, N_HIGH: tl.constexpr, N_LOW: tl.constexpr, C_HIGH: tl.constexpr, C_LOW: tl.constexpr):
    """Broadcast (t, n) -> (t, n_high, c_high, n_low, c_low)."""
    T: tl.constexpr = x_tn.shape[0]
    x = tl.reshape(x_tn, [T, N_HIGH, N_LOW])[:, :, None, :, None]
    return tl.broadcast_to(x, [T, N_HIGH, C_HIGH, N_LOW, C_LOW])


@triton.jit
def pick(tile, index, i: tl.constexpr, AXIS: tl.constexpr):
    """Return element ``i`` along AXIS, as ``row`` does along axis 0; the axis lies in the registers of one lane."""
    return tl.sum(tl.where(index == i, tile.to(tl.int32, bitcast=True), 0), AXIS).to(tl.float32, bitcast=True)


@triton.jit
def dot_channels(x, y):
    """Return the sum of x * y over channels, (n_high, c_high, n_low, c_low) -> (n_high, n_low).

    Multiply-adds are fused within a lane; lanes are added up last.
    """
    index = tl.arange(0, x.shape[1])[None, :, None, None]
    total = tl.zeros([x.shape[0], x.shape[2], x.shape[3]], tl.float32)  # see dot_states
    for i in tl.static_range(x.shape[1]):
        total += pick(x, index, i, 1) * pick(y, index, i, 1)
    return tl.sum(total, 2)


@triton.jit
def dot_states(x, y):
    """Return the sum of x * y over states, (n_high, c_high, n_low, c_low) -> (c_high, c_low)."""
    index = tl.arange(0, x.shape[0])[:, None, None, None]
    # From zero on. A lane with one state would have a bare product, which the compiler fuses with the first addition of
    # another lane's: a * b + rounded(c * d) here, and c * d + rounded(a * b) there. Both lanes write this sum.
    total = tl.zeros([x.shape[1], x.shape[2], x.shape[3]], tl.float32)
    for i in tl.static_range(x.shape[0]):
        total += row(x, index, i) * row(y, index, i)
    return tl.sum(total, 1)


@triton.jit(
    do_not_specialize=UNSPECIALIZED,
    do_not_specialize_on_alignment=[
        *(*UNALIGNED, 'D', 'dy', 'states', 'scratch', 'after'),
        *('du', 'ddelta', 'dA', 'drows', 'drows_before', 'dD', 'dbias'),
    ],
)
def scan_backward(
    u0,
    u1,
    u2,
    u3,
    rows0,
    rows1,
    rows2,
    rows3,
    delta,
    dt_weight,
    A,
    D,
    bias,
    order,
    dy,
    states,
    scratch,
    after,
    du,
    ddelta,
    dA,
    drows,
    drows_before,
    dD,
    dbias,
    walks,
    scans,
    chunks,
    length,
    channels,
    chunk_length,
    u_b,
    u_k,
    u_l,
    delta_b,
    delta_k,
    delta_l,
    rows0_b,
    rows1_b,
    rows2_b,
    rows3_b,
    rows0_l,
    rows1_l,
    rows2_l,
    rows3_l,
    first_column,
    dy_b,
    dy_k,
    dy_l,
    ddelta_b,
    ddelta_k,
    order_k,
    order_b,
    N: tl.constexpr,
    N_HIGH: tl.constexpr,
    N_LOW: tl.constexpr,
    GROUPS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PADDED: tl.constexpr,
    C_HIGH: tl.constexpr,
    C_LOW: tl.constexpr,
    T: tl.constexpr,
    TILES: tl.constexpr,
    BLOCKS: tl.constexpr,
    CHECKPOINT: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    LOG_RATES: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    HAS_AFTER: tl.constexpr,
):
    """Compute the gradients of one chunk of one scan for BLOCKS blocks of channels, one after the other.

    There are sums over channels, for dB and dC, and sums over states, for du and ddelta. Each lane therefore holds a
    square of states and channels (n_high x c_high), and the lanes form a rectangle (n_low x c_low), so that both sums
    are mostly within a lane. If one lane held all states of a channel, as in the forward kernel, dB and dC alone would
    take 20 instructions per element of the state.

    Up to 16 states are processed at once. More of them are GROUPS, one after the other in each segment between two
    checkpoints. Their gradients wait in ``after`` and ``dA``, and the sums over states in ``scratch``.

    dB and dC are added up over the blocks of a program in ``drows``, which is ``drows_before`` if there are several.
    """
    C_BLOCK: tl.constexpr = C_HIGH * C_LOW
    N_PADDED: tl.constexpr = N_HIGH * N_LOW
    parts = tl.cdiv(channels, C_BLOCK * BLOCKS)
    part, chunk, k, b = program_place(channels, scans, chunks, C_BLOCK * BLOCKS, 1)
    bk = b * scans + k
    walk = scan_walk(walks, k)

    c_own = tl.arange(0, C_BLOCK)
    n_own = tl.arange(0, N_PADDED)
    t_row = tl.arange(0, T)
    t_tile = t_row[:, None, None, None, None]
    t_small = t_row[:, None, None]

    u = scan_source(walk, u0, u1, u2, u3) + b * u_b + k * u_k
    rows, rows_l = scan_rows(
        k, b, rows0, rows1, rows2, rows3, rows0_b, rows1_b, rows2_b, rows3_b, rows0_l, rows1_l, rows2_l, rows3_l
    )
    B = rows + first_column
    dy += b * dy_b + k * dy_k
    if HAS_ORDER:
        order += ((walk >> 3) - 1) * order_k + b * order_b
    du += bk * length * channels
    ddelta += b * ddelta_b + k * ddelta_k
    place_of_rows = (bk * parts + part) * length * 2 * N
    drows += place_of_rows
    if BLOCKS > 1:
        drows_before += place_of_rows
    A += k * N * channels
    dA += (bk * chunks + chunk) * N * channels
    if HAS_AFTER:
        after += (bk * chunks + chunk) * N * channels
    states += bk * tl.cdiv(length, CHECKPOINT) * N * channels

    # Elements of the state in the order (n_high, c_high, n_low, c_low). They are loaded as one row and then reshaped:
    # lanes take neighbours in a row, and reshaping leaves each element in its lane. For a load of four dimensions,
    # Triton before 3.7 assigns elements to lanes in another way than for the arithmetic, so each use costs an exchange.
    SQUARE: tl.constexpr = [N_HIGH, C_HIGH, N_LOW, C_LOW]
    element = tl.arange(0, N_PADDED * C_BLOCK)
    n_first = element // (C_BLOCK * N_LOW) * N_LOW + element // C_LOW % N_LOW
    c_first = element // (N_LOW * C_LOW) % C_HIGH * C_LOW + element % C_LOW
    # The sums over states of the groups so far follow the states at the starts of tiles: (2, tokens, channels)
    SCRATCH: tl.constexpr = TILES * (N_PADDED + (2 * T if GROUPS > 1 else 0)) * C_BLOCK
    scratch += tl.program_id(0).to(tl.int64) * SCRATCH
    tile_states = scratch + element
    sums = scratch + TILES * N_PADDED * C_BLOCK + t_row[:, None] * C_BLOCK + c_own[None, :]

    begin = chunk * chunk_length
    end = tl.minimum(begin + chunk_length, length)
    segments = tl.cdiv(end - begin, CHECKPOINT)
    for i_block in range(BLOCKS):
        first_channel = (part * BLOCKS + i_block) * C_BLOCK
        c = first_channel + c_own
        c_row = first_channel + c_first
        in_c = c < channels
        u_c = u + c
        dy_c = dy + c
        du_c = du + c
        ddelta_c = ddelta + c
        delta_c = delta + (b * delta_b + k * delta_k + c) if RANK == 0 else 0
        D_c = tl.load(D + k * channels + c, mask=in_c, other=0.0).to(tl.float32) if HAS_D else 0.0
        bias_c = tl.load(bias + k * channels + c, mask=in_c, other=0.0).to(tl.float32) if HAS_BIAS else 0.0
        weights = step_weights(dt_weight, k, c, in_c, channels, RANK, RANK_PADDED)
        dD_c = tl.zeros([C_BLOCK], tl.float32)
        dbias_c = tl.zeros([C_BLOCK], tl.float32)

        # Of the only group, or of the group that is processed: A, the gradient of the state before the tokens processed
        # so far, and the sum over tokens that is the gradient of A.
        n = n_own
        n_row = n_first
        in_n = n < N
        in_row = (n_row < N) & (c_row < channels)
        state_row = n_row * channels + c_row
        A_square = tl.reshape(decay_exponents(A + state_row, in_row, LOG_RATES), SQUARE)
        if HAS_AFTER:
            g = tl.reshape(tl.load(after + state_row, mask=in_row, other=0.0), SQUARE)
        else:
            g = tl.zeros(SQUARE, tl.float32)
        dA_square = tl.zeros(SQUARE, tl.float32)

        for step in range(segments):
            segment = begin + (segments - 1 - step) * CHECKPOINT
            tiles = tl.cdiv(tl.minimum(segment + CHECKPOINT, end) - segment, T)
            for group in range(GROUPS):
                if GROUPS > 1:
                    n = group * N_PADDED + n_own
                    n_row = group * N_PADDED + n_first
                    in_n = n < N
                    in_row = (n_row < N) & (c_row < channels)
                    state_row = n_row * channels + c_row
                    A_square = tl.reshape(decay_exponents(A + state_row, in_row, LOG_RATES), SQUARE)
                    g = tl.reshape(tl.load(after + state_row, mask=in_row, other=0.0), SQUARE)
                    dA_square = tl.reshape(tl.load(dA + state_row, mask=in_row, other=0.0), SQUARE)

                # Walk forwards to the end of the segment once, to store the state at the start of each tile.
                checkpoint = states + segment // CHECKPOINT * N * channels
                h = tl.reshape(tl.load(checkpoint + state_row, mask=in_row, other=0.0), SQUARE)
                for i_tile in range(tiles - 1):
                    tl.store(tile_states + i_tile * N_PADDED * C_BLOCK, tl.reshape(h, [N_PADDED * C_BLOCK]))
                    place = token_places(walk, order, segment + i_tile * T + t_row, t_row < T, length, HAS_ORDER)
                    u_tc = tl.load(u_c + place[:, None] * u_l, mask=in_c[None, :], other=0.0).to(tl.float32)
                    steps = read_steps(delta_c, rows, place, delta_l, rows_l, t_row < T, in_c, RANK, RANK_PADDED)
                    raw_tc = raw_steps(steps, weights, RANK)
                    B_tn = tl.load(B + n[None, :] + place[:, None] * rows_l, mask=in_n[None, :], other=0.0).to(
                        tl.float32
                    )
                    delta_tc = time_step(raw_tc, bias_c, in_c[None, :], SOFTPLUS)
                    delta_sq = spread_channels(delta_tc, N_HIGH, N_LOW, C_HIGH, C_LOW)
                    delta_u_sq = spread_channels(delta_tc * u_tc, N_HIGH, N_LOW, C_HIGH, C_LOW)
                    B_sq = spread_states(B_tn, N_HIGH, N_LOW, C_HIGH, C_LOW)
                    for i in tl.static_range(T):
                        decay = tl.exp2(row(delta_sq, t_tile, i) * A_square)
                        h = decay * h + row(delta_u_sq, t_tile, i) * row(B_sq, t_tile, i)
                tl.store(tile_states + (tiles - 1) * N_PADDED * C_BLOCK, tl.reshape(h, [N_PADDED * C_BLOCK]))
                tl.debug_barrier()  # other lanes read this below

                for back in range(tiles):
                    i_tile = tiles - 1 - back
                    h = tl.reshape(tl.load(tile_states + i_tile * N_PADDED * C_BLOCK), SQUARE)
                    t = segment + i_tile * T + t_row
                    inside = (t < end)[:, None]
                    place = token_places(walk, order, t, t < end, length, HAS_ORDER)
                    in_tc = inside & in_c[None, :]
                    in_tn = inside & in_n[None, :]
                    u_tc = tl.load(u_c + place[:, None] * u_l, mask=in_tc, other=0.0).to(tl.float32)
                    steps = read_steps(delta_c, rows, place, delta_l, rows_l, t < end, in_c, RANK, RANK_PADDED)
                    raw_tc = raw_steps(steps, weights, RANK)
                    B_tn = tl.load(B + n[None, :] + place[:, None] * rows_l, mask=in_tn, other=0.0).to(tl.float32)
                    C_tn = tl.load(B + N + n[None, :] + place[:, None] * rows_l, mask=in_tn, other=0.0).to(tl.float32)
                    dy_tc = tl.load(dy_c + place[:, None] * dy_l, mask=in_tc, other=0.0).to(tl.float32)
                    delta_tc = time_step(raw_tc, bias_c, inside, SOFTPLUS)

                    delta_sq = spread_channels(delta_tc, N_HIGH, N_LOW, C_HIGH, C_LOW)
                    delta_u_sq = spread_channels(delta_tc * u_tc, N_HIGH, N_LOW, C_HIGH, C_LOW)
                    dy_sq = spread_channels(dy_tc, N_HIGH, N_LOW, C_HIGH, C_LOW)
                    B_sq = spread_states(B_tn, N_HIGH, N_LOW, C_HIGH, C_LOW)
                    C_sq = spread_states(C_tn, N_HIGH, N_LOW, C_HIGH, C_LOW)

                    before = tl.zeros([T, N_HIGH, C_HIGH, N_LOW, C_LOW], tl.float32)
                    for i in tl.static_range(T):
                        before = tl.where(t_tile == i, h[None], before)
                        h = tl.exp2(row(delta_sq, t_tile, i) * A_square) * h + row(delta_u_sq, t_tile, i) * row(
                            B_sq, t_tile, i
                        )

                    dB_tn = tl.zeros([T, N_HIGH, N_LOW], tl.float32)
                    dC_tn = tl.zeros([T, N_HIGH, N_LOW], tl.float32)
                    ddelta_u_tc = tl.zeros([T, C_HIGH, C_LOW], tl.float32)
                    dexponent_tc = tl.zeros([T, C_HIGH, C_LOW], tl.float32)
                    for i in tl.static_range(T - 1, -1, -1):
                        delta_i = row(delta_sq, t_tile, i)
                        dy_i = row(dy_sq, t_tile, i)
                        g += dy_i * row(C_sq, t_tile, i)
                        dC_tn = tl.where(t_small == i, dot_channels(h, dy_i)[None], dC_tn)
                        dB_tn = tl.where(t_small == i, dot_channels(g, row(delta_u_sq, t_tile, i))[None], dB_tn)
                        ddelta_u_tc = tl.where(t_small == i, dot_states(g, row(B_sq, t_tile, i))[None], ddelta_u_tc)
                        h = row(before, t_tile, i)
                        g *= tl.exp2(delta_i * A_square)
                        exponent = g * h
                        dA_square += exponent * delta_i
                        dexponent_tc = tl.where(t_small == i, dot_states(exponent, A_square)[None], dexponent_tc)

                    dB_tn = tl.reshape(dB_tn, [T, N_PADDED])
                    dC_tn = tl.reshape(dC_tn, [T, N_PADDED])
                    place_tn = n[None, :] + place[:, None] * (2 * N)
                    if BLOCKS > 1:
                        added = in_tn & (t_row * 0 + i_block > 0)[:, None]
                        dB_tn += tl.load(drows_before + place_tn, mask=added, other=0.0)
                        dC_tn += tl.load(drows_before + N + place_tn, mask=added, other=0.0)
                    tl.debug_barrier()  # several lanes read what one of them overwrites
                    tl.store(drows + place_tn, dB_tn.to(drows.dtype.element_ty), mask=in_tn)
                    tl.store(drows + N + place_tn, dC_tn.to(drows.dtype.element_ty), mask=in_tn)
                    ddelta_u_tc = tl.reshape(ddelta_u_tc, [T, C_BLOCK])
                    dexponent_tc = tl.reshape(dexponent_tc, [T, C_BLOCK])
                    written = in_tc
                    if GROUPS > 1:
                        sum_tc = sums + i_tile * T * C_BLOCK
                        later = (t_row * 0 + group > 0)[:, None]
                        ddelta_u_tc += tl.load(sum_tc, mask=later, other=0.0)
                        dexponent_tc += tl.load(sum_tc + TILES * T * C_BLOCK, mask=later, other=0.0)
                        tl.store(sum_tc, ddelta_u_tc)
                        tl.store(sum_tc + TILES * T * C_BLOCK, dexponent_tc)
                        last = (t_row * 0 + group == GROUPS - 1)[:, None]
                        written = in_tc & last
                    # A_square contains the factor log2(e), which LN_2 removes
                    ddelta_tc = dexponent_tc * LN_2 + ddelta_u_tc * u_tc
                    if SOFTPLUS:
                        ddelta_tc *= sigmoid_of(raw_tc + bias_c)
                    du_tc = ddelta_u_tc * delta_tc + dy_tc * D_c
                    tl.store(du_c + place[:, None] * channels, du_tc.to(du.dtype.element_ty), mask=written)
                    tl.store(ddelta_c + place[:, None] * channels, ddelta_tc.to(ddelta.dtype.element_ty), mask=written)
                    if HAS_D:
                        dD_c += tl.sum(tl.where(written, dy_tc * u_tc, 0.0), 0)
                    if HAS_BIAS:
                        dbias_c += tl.sum(tl.where(written, ddelta_tc, 0.0), 0)
                if GROUPS > 1:
                    tl.store(after + state_row, tl.reshape(g, [N_PADDED * C_BLOCK]), mask=in_row)
                    tl.store(dA + state_row, tl.reshape(dA_square, [N_PADDED * C_BLOCK]), mask=in_row)
                tl.debug_barrier()  # the next group, segment or block overwrites these states

        if GROUPS == 1:
            tl.store(dA + state_row, tl.reshape(dA_square, [N_PADDED * C_BLOCK]), mask=in_row)
        if HAS_D:
            tl.store(dD + (bk * chunks + chunk) * channels + c, dD_c, mask=in_c)
        if HAS_BIAS:
            tl.store(dbias + (bk * chunks + chunk) * channels + c, dbias_c, mask=in_c)
