"""The forward kernel. One program processes 32 channels of one scan of one image, with the states in registers."""

import triton
import triton.language as tl

from .blocks import LOG2_E, dot_states, program_place, row, scan_source, scan_walk, time_step, token_places


@triton.jit
def carried(x, CARRY_FLOAT32: tl.constexpr):
    """Return what was read ahead as the loop over tiles carries it.

    What it carries passes through shared memory. As float32 it needs no conversion in every lane behind it.
    """
    if CARRY_FLOAT32:
        x = x.to(tl.float32)
    return x


@triton.jit(
    do_not_specialize=['walks'],
    # Without a promise of alignment each lane reads its own channel of each token, as the recurrence needs it. With a
    # promise Triton reads vectors and exchanges them between lanes, which takes longer than the narrow reads.
    do_not_specialize_on_alignment=['u0', 'u1', 'u2', 'u3', 'delta', 'A', 'D', 'bias', 'starts', 'y', 'states'],
)
def scan_forward(
    u0,
    u1,
    u2,
    u3,
    delta,
    A,
    B,
    C,
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
    B_b,
    B_k,
    B_l,
    C_b,
    C_k,
    C_l,
    order_k,
    order_b,
    N: tl.constexpr,
    N_PADDED: tl.constexpr,
    C_BLOCK: tl.constexpr,
    T: tl.constexpr,
    CHECKPOINT: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    HAS_STARTS: tl.constexpr,
    SAVE_STATES: tl.constexpr,
    CARRY_FLOAT32: tl.constexpr,
):
    block, chunk, k, b = program_place(channels, scans, chunks, C_BLOCK)
    bk = b * scans + k
    walk = scan_walk(walks, k)

    c = block * C_BLOCK + tl.arange(0, C_BLOCK)
    n = tl.arange(0, N_PADDED)
    t_row = tl.arange(0, T)
    t_tile = t_row[:, None, None]
    in_c = c < channels
    in_n = n < N
    in_nc = in_n[:, None] & in_c[None, :]

    u = scan_source(walk, u0, u1, u2, u3) + b * u_b + k * u_k + c
    delta += b * delta_b + k * delta_k + c
    B += b * B_b + k * B_k + n
    C += b * C_b + k * C_k + n
    y += bk * length * channels + c
    if HAS_ORDER:
        order += ((walk >> 3) - 1) * order_k + b * order_b
    state_nc = n[:, None] * channels + c[None, :]

    # states beyond N stay zero: there A = 0, so the update is 1 * 0 + 0
    A_nc = tl.load(A + k * N * channels + state_nc, mask=in_nc, other=0.0) * LOG2_E
    D_c = tl.load(D + k * channels + c, mask=in_c, other=0.0).to(tl.float32) if HAS_D else 0.0
    bias_c = tl.load(bias + k * channels + c, mask=in_c, other=0.0).to(tl.float32) if HAS_BIAS else 0.0
    if HAS_STARTS:
        h = tl.load(starts + (bk * chunks + chunk) * N * channels + state_nc, mask=in_nc, other=0.0)
    else:
        h = tl.zeros([N_PADDED, C_BLOCK], tl.float32)
    if SAVE_STATES:
        states += bk * tl.cdiv(length, CHECKPOINT) * N * channels

    begin = chunk * chunk_length
    end = tl.minimum(begin + chunk_length, length)

    # A tile is read one tile ahead, and its places two ahead: too few warps run to hide the latency of memory.
    t = begin + t_row
    place = token_places(walk, order, t, t < end, length, HAS_ORDER)
    in_tc = (t < end)[:, None] & in_c[None, :]
    in_tn = (t < end)[:, None] & in_n[None, :]
    u_next = carried(tl.load(u + place[:, None] * u_l, mask=in_tc, other=0.0), CARRY_FLOAT32)
    delta_next = carried(tl.load(delta + place[:, None] * delta_l, mask=in_tc, other=0.0), CARRY_FLOAT32)
    B_next = carried(tl.load(B + place[:, None] * B_l, mask=in_tn, other=0.0), CARRY_FLOAT32)
    C_next = carried(tl.load(C + place[:, None] * C_l, mask=in_tn, other=0.0), CARRY_FLOAT32)
    place_next = token_places(walk, order, t + T, t + T < end, length, HAS_ORDER)

    for tile in range(begin, end, T):
        u_tc = u_next.to(tl.float32)
        raw_tc = delta_next.to(tl.float32)
        B_tn = B_next.to(tl.float32)
        C_tn = C_next.to(tl.float32)
        here = place
        inside = (tile + t_row < end)[:, None]

        t = tile + T + t_row
        place = place_next
        in_tc = (t < end)[:, None] & in_c[None, :]
        in_tn = (t < end)[:, None] & in_n[None, :]
        u_read = tl.load(u + place[:, None] * u_l, mask=in_tc, other=0.0)
        delta_read = tl.load(delta + place[:, None] * delta_l, mask=in_tc, other=0.0)
        B_read = tl.load(B + place[:, None] * B_l, mask=in_tn, other=0.0)
        C_read = tl.load(C + place[:, None] * C_l, mask=in_tn, other=0.0)
        place_next = token_places(walk, order, t + T, t + T < end, length, HAS_ORDER)

        if SAVE_STATES and tile % CHECKPOINT == 0:
            tl.store(states + (tile // CHECKPOINT) * N * channels + state_nc, h, mask=in_nc)

        delta_tc = time_step(raw_tc, bias_c, inside, SOFTPLUS)
        delta_tnc = tl.broadcast_to(delta_tc[:, None, :], [T, N_PADDED, C_BLOCK])
        delta_u_tnc = tl.broadcast_to((delta_tc * u_tc)[:, None, :], [T, N_PADDED, C_BLOCK])
        B_tnc = tl.broadcast_to(B_tn[:, :, None], [T, N_PADDED, C_BLOCK])
        C_tnc = tl.broadcast_to(C_tn[:, :, None], [T, N_PADDED, C_BLOCK])
        y_tc = tl.zeros([T, 1, C_BLOCK], tl.float32)
        for i in tl.static_range(T):
            decay = tl.exp2(row(delta_tnc, t_tile, i) * A_nc)
            h = decay * h + row(delta_u_tnc, t_tile, i) * row(B_tnc, t_tile, i)
            y_c = dot_states(h, row(C_tnc, t_tile, i))
            y_tc = tl.where(t_tile == i, y_c[None, None, :], y_tc)
        y_tc = tl.reshape(y_tc, [T, C_BLOCK]) + u_tc * D_c
        tl.store(y + here[:, None] * channels, y_tc.to(y.dtype.element_ty), mask=inside & in_c[None, :])

        # only here, after the arithmetic, so that nothing waits for what was just read
        u_next, delta_next = carried(u_read, CARRY_FLOAT32), carried(delta_read, CARRY_FLOAT32)
        B_next, C_next = carried(B_read, CARRY_FLOAT32), carried(C_read, CARRY_FLOAT32)
