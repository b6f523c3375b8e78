"""The Triton multi-scan as an operator of PyTorch, for torch.compile, autograd and callers."""

import importlib.util

import torch

from ..tensors import distinct, needs_gradient
from .layout import MAX_SCANS, MAX_SOURCES, MAX_STATES, empty_gradients, empty_results

# Looked up once, at import: torch.compile of PyTorch 2.7 cannot trace find_spec.
INSTALLED = importlib.util.find_spec('triton') is not None

SCHEMA = (
    '(Tensor[] sources, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, Tensor? order, '
    'int[] walks, bool delta_softplus, int chunk_length, bool save_states) -> (Tensor, Tensor)'
)
BACKWARD_SCHEMA = (
    '(Tensor dy, Tensor states, Tensor[] sources, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, '
    'Tensor? delta_bias, Tensor? order, int[] walks, bool delta_softplus, int chunk_length) '
    '-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)'
)


def unavailable_reason(u, states=1):
    """Return why the kernels cannot run on tensors like ``u`` with that many states, or None if they can."""
    if u.dtype == torch.float64:
        return 'it computes in float32, these are float64'
    if not INSTALLED:
        return 'triton is not installed; it comes with PyTorch for CUDA on Linux'
    if not u.is_cuda:
        from .launch import INTERPRETED

        if not INTERPRETED:
            return f'it needs CUDA tensors, these are on {u.device.type}'
    return None if states <= MAX_STATES else f'it takes at most {MAX_STATES} states, got {states}'


# -- The operator. Sources are maps (B, 1, L, C), or one tensor (B, K, L, C) with one map per scan. Each scan has an
# integer in ``walks``: bits 0 and 1 are the index of its source, bit 2 is set if it runs backwards, and the bits from
# 3 on are 1 + its row of ``order``, (rows, 1 or B, L) int32, or 0 without an order.


@torch.library.custom_op('mmdefmamba::multi_scan', mutates_args=(), schema=SCHEMA)
def _multi_scan(sources, delta, A, B, C, D, delta_bias, order, walks, delta_softplus, chunk_length, save_states):
    from .launch import launch_forward

    return launch_forward(
        sources, delta, A, B, C, D, delta_bias, order, walks, delta_softplus, chunk_length, save_states
    )


@_multi_scan.register_fake
def _(sources, delta, A, B, C, D, delta_bias, order, walks, delta_softplus, chunk_length, save_states):
    return empty_results(sources, delta, A, save_states)


@torch.library.custom_op('mmdefmamba::multi_scan_backward', mutates_args=(), schema=BACKWARD_SCHEMA)
def _multi_scan_backward(
    dy, states, sources, delta, A, B, C, D, delta_bias, order, walks, delta_softplus, chunk_length
):
    from .launch import launch_backward

    return launch_backward(
        dy, states, sources, delta, A, B, C, D, delta_bias, order, walks, delta_softplus, chunk_length
    )


@_multi_scan_backward.register_fake
def _(dy, states, sources, delta, A, B, C, D, delta_bias, order, walks, delta_softplus, chunk_length):
    return empty_gradients(sources, delta, A, B, C, D, delta_bias)


def _save(ctx, inputs, output):
    sources, delta, A, B, C, D, delta_bias, order, walks, delta_softplus, chunk_length, _ = inputs
    ctx.save_for_backward(output[1], delta, A, B, C, D, delta_bias, order, *sources)
    ctx.walks, ctx.delta_softplus, ctx.chunk_length = walks, delta_softplus, chunk_length
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, dy, _):
    states, delta, A, B, C, D, delta_bias, order, *sources = ctx.saved_tensors
    if dy is None:
        return (None,) * 12
    if not states.numel():
        raise RuntimeError('the multi-scan ran with save_states=False, so it cannot be differentiated: pass True')
    du, ddelta, dA, dB, dC, dD, dbias = torch.ops.mmdefmamba.multi_scan_backward(
        dy, states, sources, delta, A, B, C, D, delta_bias, order, ctx.walks, ctx.delta_softplus, ctx.chunk_length
    )
    if sources[0].shape[1] > 1:
        dsources = [du]
    else:
        readers = [[k for k, walk in enumerate(ctx.walks) if walk & 3 == i] for i in range(len(sources))]
        dsources = [_sum_of_scans(du, scans) for scans in readers]
    dD = None if D is None else dD
    dbias = None if delta_bias is None else dbias
    return dsources, ddelta, dA, dB, dC, dD, dbias, None, None, None, None, None


def _sum_of_scans(du, scans):
    """Sum (B, K, L, C) over some scans to (B, 1, L, C). The order is always the same, and the sum is in float32."""
    of_scans = [du[:, k : k + 1] for k in scans]
    return of_scans[0] if len(scans) == 1 else torch.cat(of_scans, dim=1).sum(1, keepdim=True)


_multi_scan.register_autograd(_backward, setup_context=_save)


# -- The functions that callers use.


def multi_scan_triton(maps, delta, A, B, C, D, delta_bias, orders, delta_softplus=True, chunk_length=0):
    """Run a multi-scan with the Triton kernels; arguments as of :func:`~mmdefmamba.ops.multi_scan`, checked there.

    Args:
        chunk_length: number of tokens that one program processes, a multiple of ``CHECKPOINT``. With 0 it depends on
            the size of the GPU.

    Raises:
        ValueError: there are more than 256 states, a tensor is too large for 32-bit offsets, or ``chunk_length`` is
            not a multiple of ``CHECKPOINT``.
    """
    found, reads = distinct(maps)
    if len(found) <= MAX_SOURCES:
        sources = [u.unsqueeze(1) for u in found]
    else:  # more maps than a kernel takes, which is rare: copy them into one tensor
        sources, reads = [torch.stack(maps, dim=1)], [0] * len(maps)
    walks, rows = [], []
    for read, order in zip(reads, orders, strict=True):
        if order is not None and not order.backwards:
            rows.append(order.order)
            read |= len(rows) << 3
        elif order is not None:
            read |= 1 << 2
        walks.append(read)
    return _scan(sources, delta, A, B, C, D, delta_bias, rows, walks, delta_softplus, chunk_length)


def grouped_scan_triton(u, delta, A, B, C, D, delta_bias, delta_softplus, chunk_length=0):
    """Run the scans of K groups in the given order of tokens, all channel-last.

    Args:
        u, delta: (B, K, L, C).
        B, C: (B, K, L, N).

    Returns:
        y, (B, K, L, C).
    """
    return _scan([u], delta, A, B, C, D, delta_bias, [], [0] * delta.shape[1], delta_softplus, chunk_length)


def _scan(sources, delta, A, B, C, D, delta_bias, rows, walks, delta_softplus, chunk_length):
    scans, channels = delta.shape[1], delta.shape[3]
    if A.shape[1] > MAX_STATES:
        raise ValueError(f'triton takes at most {MAX_STATES} states, got {A.shape[1]}')
    if scans > MAX_SCANS:
        parts = []
        for begin in range(0, scans, MAX_SCANS):
            k = slice(begin, begin + MAX_SCANS)
            kc = slice(begin * channels, (begin + MAX_SCANS) * channels)
            used = [walk >> 3 for walk in walks[k] if walk >> 3]
            part_walks = [walk & 7 | (used.index(walk >> 3) + 1 if walk >> 3 else 0) << 3 for walk in walks[k]]
            parts.append(
                _scan(
                    [u if u.shape[1] == 1 else u[:, k] for u in sources],
                    *(delta[:, k], A[kc], B[:, k], C[:, k]),
                    *(None if x is None else x[kc] for x in (D, delta_bias)),
                    *([rows[i - 1] for i in used], part_walks, delta_softplus, chunk_length),
                )
            )
        return torch.cat(parts, dim=1)

    order = None
    if rows:
        images = max(row.shape[0] if row.ndim == 2 else 1 for row in rows)
        order = torch.stack([row.expand(images, -1) for row in rows]).to(torch.int32)
    save_states = needs_gradient(*sources, delta, A, B, C, D, delta_bias)
    y, _ = torch.ops.mmdefmamba.multi_scan(
        sources, delta, A, B, C, D, delta_bias, order, walks, delta_softplus, chunk_length, save_states
    )
    return y
