"""The forward kernel. One program processes a block of channels of one scan of one image."""

import triton
import triton.language as tl

from .blocks import (
    UNALIGNED,
    UNSPECIALIZED,
    decay_exponents,
    dot_states,
    program_place,
    raw_steps,
    read_steps,
    row,
    scan_rows,
    scan_source,
    scan_walk,
    step_weights,
    time_step,
    token_places,
)


@triton.jit
def carried(x, CARRY_FLOAT32: tl.constexpr):
    """Return what was read ahead as the loop over tiles carries it.

    What it carries passes through shared memory. As float32 it needs no conversion in every lane behind it.
    """
    if CARRY_FLOAT32:
        x = x.to(tl.float32)
    return x


@triton.jit
def walk_tile(h, A_nc, delta_tc, u_tc, B_tn, C_tn):
    """Let the states pass the tokens of a tile; return them and <C, h> of each token, (t, 1, c)."""
    T: tl.constexpr = delta_tc.shape[0]
    SHAPE: tl.constexpr = [T, h.shape[0], h.shape[1]]
    t_tile = tl.arange(0, T)[:, None, None]
    delta_tnc = tl.broadcast_to(delta_tc[:, None, :], SHAPE)
    delta_u_tnc = tl.broadcast_to((delta_tc * u_tc)[:, None, :], SHAPE)
    B_tnc = tl.broadcast_to(B_tn[:, :, None], SHAPE)
    C_tnc = tl.broadcast_to(C_tn[:, :, None], SHAPE)
    y_tc = tl.zeros([T, 1, h.shape[1]], tl.float32)
    for i in tl.static_range(T):
        decay = tl.exp2(row(delta_tnc, t_tile, i) * A_nc)
        h = decay * h + row(delta_u_tnc, t_tile, i) * row(B_tnc, t_tile, i)
        y_c = dot_states(h, row(C_tnc, t_tile, i))
        y_tc = tl.where(t_tile == i, y_c[None, None, :], y_tc)
    return h, y_tc


@triton.jit(
    do_not_specialize=UNSPECIALIZED,
    do_not_specialize_on_alignment=[*UNALIGNED, 'D', 'starts', 'y', 'states'],
)
def scan_forward(
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
    starts,
    y,
    states,
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
    order_k,
    order_b,
    N: tl.constexpr,
    N_PADDED: tl.constexpr,
    GROUPS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PADDED: tl.constexpr,
    C_BLOCK: tl.constexpr,
    T: tl.constexpr,
    CHECKPOINT: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    LOG_RATES: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    HAS_STARTS: tl.constexpr,
    SAVE_STATES: tl.constexpr,
    CARRY_FLOAT32: tl.constexpr,
):
    """Compute y of one chunk of one scan for a block of channels, and the states at checkpoints.

    Up to 16 states lie in registers. More of them are GROUPS of N_PADDED: each tile is passed group by group, and the
    states of the other groups wait in ``starts``, which the kernel overwrites.
    """
    block, chunk, k, b = program_place(channels, scans, chunks, C_BLOCK, 1)
    bk = b * scans + k
    walk = scan_walk(walks, k)

    c = block * C_BLOCK + tl.arange(0, C_BLOCK)
    n = tl.arange(0, N_PADDED)
    t_row = tl.arange(0, T)
    in_c = c < channels
    in_n = n < N
    in_nc = in_n[:, None] & in_c[None, :]

    u = scan_source(walk, u0, u1, u2, u3) + b * u_b + k * u_k + c
    rows, rows_l = scan_rows(
        k, b, rows0, rows1, rows2, rows3, rows0_b, rows1_b, rows2_b, rows3_b, rows0_l, rows1_l, rows2_l, rows3_l
    )
    B = rows + first_column + n
    C = B + N
    if RANK == 0:
        delta += b * delta_b + k * delta_k + c
    y += bk * length * channels + c
    if HAS_ORDER:
        order += ((walk >> 3) - 1) * order_k + b * order_b
    state_nc = n[:, None] * channels + c[None, :]

    # states beyond N stay zero: there A = 0, so the update is 1 * 0 + 0
    A += k * N * channels
    A_nc = decay_exponents(A + state_nc, in_nc, LOG_RATES)
    D_c = tl.load(D + k * channels + c, mask=in_c, other=0.0).to(tl.float32) if HAS_D else 0.0
    bias_c = tl.load(bias + k * channels + c, mask=in_c, other=0.0).to(tl.float32) if HAS_BIAS else 0.0
    weights = step_weights(dt_weight, k, c, in_c, channels, RANK, RANK_PADDED)
    if HAS_STARTS:
        starts += (bk * chunks + chunk) * N * channels
        h = tl.load(starts + state_nc, mask=in_nc, other=0.0)
    else:
        h = tl.zeros([N_PADDED, C_BLOCK], tl.float32)
    if SAVE_STATES:
        states += bk * tl.cdiv(length, CHECKPOINT) * N * channels

    begin = chunk * chunk_length
    end = tl.minimum(begin + chunk_length, length)

    # A tile is read one tile ahead, and its places two ahead: too few warps run to hide the latency of memory.
    t = begin + t_row
    in_t = t < end
    place = token_places(walk, order, t, in_t, length, HAS_ORDER)
    in_tc = in_t[:, None] & in_c[None, :]
    in_tn = in_t[:, None] & in_n[None, :]
    u_next = carried(tl.load(u + place[:, None] * u_l, mask=in_tc, other=0.0), CARRY_FLOAT32)
    steps_next = carried(read_steps(delta, rows, place, delta_l, rows_l, in_t, in_c, RANK, RANK_PADDED), CARRY_FLOAT32)
    B_next = carried(tl.load(B + place[:, None] * rows_l, mask=in_tn, other=0.0), CARRY_FLOAT32)
    C_next = carried(tl.load(C + place[:, None] * rows_l, mask=in_tn, other=0.0), CARRY_FLOAT32)
    place_next = token_places(walk, order, t + T, t + T < end, length, HAS_ORDER)

    for tile in range(begin, end, T):
        u_tc = u_next.to(tl.float32)
        steps = steps_next.to(tl.float32)
        B_tn = B_next.to(tl.float32)
        C_tn = C_next.to(tl.float32)
        here = place
        inside = (tile + t_row < end)[:, None]

        t = tile + T + t_row
        in_t = t < end
        place = place_next
        in_tc = in_t[:, None] & in_c[None, :]
        in_tn = in_t[:, None] & in_n[None, :]
        u_read = tl.load(u + place[:, None] * u_l, mask=in_tc, other=0.0)
        steps_read = read_steps(delta, rows, place, delta_l, rows_l, in_t, in_c, RANK, RANK_PADDED)
        B_read = tl.load(B + place[:, None] * rows_l, mask=in_tn, other=0.0)
        C_read = tl.load(C + place[:, None] * rows_l, mask=in_tn, other=0.0)
        place_next = token_places(walk, order, t + T, t + T < end, length, HAS_ORDER)

        if SAVE_STATES and tile % CHECKPOINT == 0:
            tl.store(states + (tile // CHECKPOINT) * N * channels + state_nc, h, mask=in_nc)

        delta_tc = time_step(raw_steps(steps, weights, RANK), bias_c, inside, SOFTPLUS)
        h, y_tc = walk_tile(h, A_nc, delta_tc, u_tc, B_tn, C_tn)
        if GROUPS > 1:
            # the first group is in registers, the others come and go
            for group in range(1, GROUPS):
                first = group * N_PADDED
                in_group = n + first < N
                in_gc = in_group[:, None] & in_c[None, :]
                in_tg = inside & in_group[None, :]
                waiting = starts + first * channels + state_nc
                h_group = tl.load(waiting, mask=in_gc, other=0.0)
                if SAVE_STATES and tile % CHECKPOINT == 0:
                    saved = states + ((tile // CHECKPOINT) * N + first) * channels
                    tl.store(saved + state_nc, h_group, mask=in_gc)
                A_group = decay_exponents(A + first * channels + state_nc, in_gc, LOG_RATES)
                B_tn = tl.load(B + first + here[:, None] * rows_l, mask=in_tg, other=0.0).to(tl.float32)
                C_tn = tl.load(C + first + here[:, None] * rows_l, mask=in_tg, other=0.0).to(tl.float32)
                h_group, y_group = walk_tile(h_group, A_group, delta_tc, u_tc, B_tn, C_tn)
                y_tc += y_group
                tl.store(waiting, h_group, mask=in_gc)
            tl.debug_barrier()  # other lanes may read these states in the next tile
        y_tc = tl.reshape(y_tc, [T, C_BLOCK]) + u_tc * D_c
        tl.store(y + here[:, None] * channels, y_tc.to(y.dtype.element_ty), mask=inside & in_c[None, :])

        # only here, after the arithmetic, so that nothing waits for what was just read
        u_next, steps_next = carried(u_read, CARRY_FLOAT32), carried(steps_read, CARRY_FLOAT32)
        B_next, C_next = carried(B_read, CARRY_FLOAT32), carried(C_read, CARRY_FLOAT32)
