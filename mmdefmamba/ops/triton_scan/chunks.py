"""Kernels that carry states from chunk to chunk. A sequence is cut into chunks so that more programs can work on it.

The recurrence is linear: the state after a chunk is the state that the chunk computes from zero, plus the decay of the
chunk times the state before it. So all chunks are first processed at the same time, each from a zero state. Then the
states are carried from chunk to chunk. Then the forward or backward kernel processes each chunk from its true state.
All exponents are sums of delta * A, which are never above zero.
"""

import triton
import triton.language as tl

from .blocks import (
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
    step_weights,
    time_step,
    token_places,
)


@triton.jit(
    do_not_specialize=UNSPECIALIZED,
    do_not_specialize_on_alignment=[*UNALIGNED, 'ends', 'delta_sums'],
)
def chunk_ends(
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
    bias,
    order,
    ends,
    delta_sums,
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
    SOFTPLUS: tl.constexpr,
    LOG_RATES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    ADJOINT: tl.constexpr,
):
    """Write the state that each chunk computes from zero, and the sum of its time steps.

    Without ADJOINT this is the state at the end of the chunk, with W = B. With ADJOINT it is the gradient of the state
    at the start of the chunk: the kernel walks backwards, with W = C and the gradient of y in place of u. Nothing is
    summed over states, so each group of N_PADDED states has programs of its own.
    """
    part, chunk, k, b = program_place(channels, scans, chunks, C_BLOCK, GROUPS)
    block, group = part // GROUPS, part % GROUPS
    bk = b * scans + k
    walk = scan_walk(walks, k)

    c = block * C_BLOCK + tl.arange(0, C_BLOCK)
    n = group * N_PADDED + tl.arange(0, N_PADDED)
    t_row = tl.arange(0, T)
    t_tile = t_row[:, None, None]
    in_c = c < channels
    in_n = n < N
    in_nc = in_n[:, None] & in_c[None, :]

    u = scan_source(walk, u0, u1, u2, u3) + b * u_b + k * u_k + c
    rows, rows_l = scan_rows(
        k, b, rows0, rows1, rows2, rows3, rows0_b, rows1_b, rows2_b, rows3_b, rows0_l, rows1_l, rows2_l, rows3_l
    )
    W = rows + first_column + n
    if ADJOINT:
        W += N
    if RANK == 0:
        delta += b * delta_b + k * delta_k + c
    if HAS_ORDER:
        order += ((walk >> 3) - 1) * order_k + b * order_b
    state_nc = n[:, None] * channels + c[None, :]
    A_nc = decay_exponents(A + k * N * channels + state_nc, in_nc, LOG_RATES)
    bias_c = tl.load(bias + k * channels + c, mask=in_c, other=0.0).to(tl.float32) if HAS_BIAS else 0.0
    weights = step_weights(dt_weight, k, c, in_c, channels, RANK, RANK_PADDED)

    begin = chunk * chunk_length
    end = tl.minimum(begin + chunk_length, length)
    h = tl.zeros([N_PADDED, C_BLOCK], tl.float32)
    delta_sum_c = tl.zeros([C_BLOCK], tl.float32)
    for step in range(0, end - begin, T):
        t = end - 1 - step - t_row if ADJOINT else begin + step + t_row
        inside = (t >= begin) & (t < end)
        place = token_places(walk, order, t, inside, length, HAS_ORDER)
        in_tc = inside[:, None] & in_c[None, :]
        u_tc = tl.load(u + place[:, None] * u_l, mask=in_tc, other=0.0).to(tl.float32)
        steps = read_steps(delta, rows, place, delta_l, rows_l, inside, in_c, RANK, RANK_PADDED)
        raw_tc = raw_steps(steps, weights, RANK)
        W_tn = tl.load(W + place[:, None] * rows_l, mask=inside[:, None] & in_n[None, :], other=0.0).to(tl.float32)
        delta_tc = time_step(raw_tc, bias_c, inside[:, None], SOFTPLUS)
        delta_sum_c += tl.sum(delta_tc, 0)
        x_tc = u_tc if ADJOINT else delta_tc * u_tc
        delta_tnc = tl.broadcast_to(delta_tc[:, None, :], [T, N_PADDED, C_BLOCK])
        x_tnc = tl.broadcast_to(x_tc[:, None, :], [T, N_PADDED, C_BLOCK])
        W_tnc = tl.broadcast_to(W_tn[:, :, None], [T, N_PADDED, C_BLOCK])
        for i in tl.static_range(T):
            decay = tl.exp2(row(delta_tnc, t_tile, i) * A_nc)
            added = row(x_tnc, t_tile, i) * row(W_tnc, t_tile, i)
            h = decay * (h + added) if ADJOINT else decay * h + added

    part = bk * chunks + chunk
    tl.store(ends + part * N * channels + state_nc, h, mask=in_nc)
    if group == 0:
        tl.store(delta_sums + part * channels + c, delta_sum_c, mask=in_c)


@triton.jit
def pass_carries(
    ends,
    delta_sums,
    A,
    scans,
    chunks,
    channels,
    N: tl.constexpr,
    N_PADDED: tl.constexpr,
    GROUPS: tl.constexpr,
    C_BLOCK: tl.constexpr,
    LOG_RATES: tl.constexpr,
    ADJOINT: tl.constexpr,
):
    """Replace the state that each chunk computes from zero by the state that reaches the chunk.

    With ADJOINT the chunks are processed from the last to the first.
    """
    part, _, k, b = program_place(channels, scans, 1, C_BLOCK, GROUPS)
    bk = b * scans + k
    c = part // GROUPS * C_BLOCK + tl.arange(0, C_BLOCK)
    n = part % GROUPS * N_PADDED + tl.arange(0, N_PADDED)
    in_c = c < channels
    in_nc = (n < N)[:, None] & in_c[None, :]
    state_nc = n[:, None] * channels + c[None, :]
    A_nc = decay_exponents(A + k * N * channels + state_nc, in_nc, LOG_RATES)
    h = tl.zeros([N_PADDED, C_BLOCK], tl.float32)
    for step in range(chunks):
        at = bk * chunks + (chunks - 1 - step if ADJOINT else step)
        delta_sum_c = tl.load(delta_sums + at * channels + c, mask=in_c, other=0.0)
        end = tl.load(ends + at * N * channels + state_nc, mask=in_nc, other=0.0)
        tl.store(ends + at * N * channels + state_nc, h, mask=in_nc)
        h = tl.exp2(delta_sum_c[None, :] * A_nc) * h + end
