"""The Triton multi-scan as an operator of PyTorch, for torch.compile, autograd and callers."""

import importlib.util

import torch

from ..tensors import distinct, needs_gradient
from .layout import MAX_SCANS, MAX_SOURCES, MAX_STATES, empty_gradients, empty_results

# Looked up once, at import: torch.compile of PyTorch 2.7 cannot trace find_spec.
INSTALLED = importlib.util.find_spec('triton') is not None

INPUTS = (
    'Tensor[] sources, Tensor[] projected, Tensor? delta, Tensor? dt_weight, Tensor A, Tensor? D, Tensor? delta_bias, '
    'Tensor? order, int[] walks, bool delta_softplus, bool log_rates, int chunk_length'
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


# -- The operator. Sources are maps (B, 1, L, C), or one tensor (B, K, L, C) with one map per scan. The rows of a scan
# are (B, L, R + 2N): R numbers per token from which ``dt_weight``, (K, C, R), projects the time step, then B, then C.
# With ``delta``, (B, K, L, C), in the place of ``dt_weight``, R is 0. Each scan has an integer in ``walks``: bits 0 and
# 1 are the index of its source, bit 2 is set if it runs backwards, and the bits from 3 on are 1 + its row of ``order``,
# (rows, 1 or B, L) of int32 or int64, or 0 without an order.


@torch.library.custom_op(
    'mmdefmamba::multi_scan', mutates_args=(), schema=f'({INPUTS}, bool save_states) -> (Tensor, Tensor)'
)
def _multi_scan(*inputs):
    from .launch import launch_forward

    return launch_forward(*inputs)


@_multi_scan.register_fake
def _(
    sources, projected, delta, dt_weight, A, D, delta_bias, order, walks, delta_softplus, log_rates, chunk_length,
    save_states,
):  # fmt: skip
    return empty_results(sources, A, walks, save_states)


@torch.library.custom_op(
    'mmdefmamba::multi_scan_backward',
    mutates_args=(),
    schema=f'(Tensor dy, Tensor states, {INPUTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)',
)
def _multi_scan_backward(*inputs):
    from .launch import launch_backward

    return launch_backward(*inputs)


@_multi_scan_backward.register_fake
def _(
    dy, states, sources, projected, delta, dt_weight, A, D, delta_bias, order, walks, delta_softplus, log_rates,
    chunk_length,
):  # fmt: skip
    return empty_gradients(sources, projected, delta, dt_weight, A, D, delta_bias, walks)


def _save(ctx, inputs, output):
    sources, projected, delta, dt_weight, A, D, delta_bias, order, *ctx.options, _ = inputs
    ctx.save_for_backward(output[1], delta, dt_weight, A, D, delta_bias, order, *projected, *sources)
    ctx.scans = len(projected)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, dy, _):
    states, *given, order = ctx.saved_tensors[:7]
    projected, sources = ctx.saved_tensors[7 : 7 + ctx.scans], ctx.saved_tensors[7 + ctx.scans :]
    if dy is None:
        return (None,) * 13
    if not states.numel():
        raise RuntimeError('the multi-scan ran with save_states=False, so it cannot be differentiated: pass True')
    walks = ctx.options[0]
    du, dprojected, *gradients = torch.ops.mmdefmamba.multi_scan_backward(
        dy, states, sources, projected, *given, order, *ctx.options
    )
    if sources[0].shape[1] > 1:
        dsources = [du]
    else:
        readers = [[k for k, walk in enumerate(walks) if walk & 3 == i] for i in range(len(sources))]
        dsources = [_sum_of_scans(du, scans) for scans in readers]
    gradients = [None if x is None else gradient for x, gradient in zip(given, gradients, strict=True)]
    return dsources, [*dprojected.unbind(2)], *gradients, *(None,) * 6


def _sum_of_scans(du, scans):
    """Sum (B, K, L, C) over some scans to (B, 1, L, C). The order is always the same, and the sum is in float32."""
    first, last = scans[0], scans[-1]
    if last - first == len(scans) - 1:  # neighbours: no copy
        of_scans = du[:, first : last + 1]
    else:
        of_scans = torch.cat([du[:, k : k + 1] for k in scans], dim=1)
    return of_scans if len(scans) == 1 else of_scans.sum(1, keepdim=True)


_multi_scan.register_autograd(_backward, setup_context=_save)


# -- The functions that callers use.


def multi_scan_triton(maps, delta, A, B, C, D, delta_bias, orders, delta_softplus=True, chunk_length=0):
    """Run a multi-scan with the Triton kernels; arguments as of :func:`~mmdefmamba.ops.multi_scan`, checked there.

    Args:
        chunk_length: number of tokens that one program processes, a multiple of ``CHECKPOINT``. With 0 it depends on
            the size of the GPU and on the :class:`.options.ScanOptions`.

    Raises:
        ValueError: there are more than 256 states, a tensor is too large for 32-bit offsets, or ``chunk_length`` is
            not a multiple of ``CHECKPOINT``.
    """
    rows = torch.cat([B, C], dim=-1).unbind(1)
    sources, orders, walks = _walks_of(maps, orders)
    return _scan(sources, rows, delta, None, A, D, delta_bias, orders, walks, delta_softplus, False, chunk_length)


def projected_scan_triton(maps, projected, dt_weight, A, D, delta_bias, orders, log_rates=False, chunk_length=0):
    """Run a multi-scan from the projections of its maps, with the Triton kernels.

    Each map's projections are read where they lie. A time step of at most ``ScanOptions.largest_rank`` numbers is
    projected in the scan, in float32; it is not written to memory. A larger one is a matrix product before the scan, in
    the dtype of ``projected``.

    Args:
        maps, projected, dt_weight, A, D, delta_bias, orders, log_rates: as of
            :func:`~mmdefmamba.ops.gated_multi_scan`, checked there.
        chunk_length: as of :func:`multi_scan_triton`.

    Returns:
        y, (B, K, L, C), dtype of the maps.

    Raises:
        ValueError: as of :func:`multi_scan_triton`.
    """
    sources, orders, walks = _walks_of(maps, orders)
    return _scan(sources, projected, None, dt_weight, A, D, delta_bias, orders, walks, True, log_rates, chunk_length)


def grouped_scan_triton(u, delta, A, B, C, D, delta_bias, delta_softplus, chunk_length=0):
    """Run the scans of K groups in the given order of tokens, all channel-last.

    Args:
        u, delta: (B, K, L, C).
        B, C: (B, K, L, N).

    Returns:
        y, (B, K, L, C).
    """
    rows, walks = torch.cat([B, C], dim=-1).unbind(1), [0] * delta.shape[1]
    return _scan([u], rows, delta, None, A, D, delta_bias, [], walks, delta_softplus, False, chunk_length)


def _walks_of(maps, orders):
    """Return the sources, the orders that are read, and a walk per scan."""
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
    return sources, rows, walks


def _scan(
    sources, projected, delta, dt_weight, A, D, delta_bias, orders, walks, delta_softplus, log_rates, chunk_length
):
    scans, channels = len(walks), sources[0].shape[-1]
    if A.shape[1] > MAX_STATES:
        raise ValueError(f'triton takes at most {MAX_STATES} states, got {A.shape[1]}')
    if scans > MAX_SCANS:
        parts = []
        for begin in range(0, scans, MAX_SCANS):
            k = slice(begin, begin + MAX_SCANS)
            kc = slice(begin * channels, (begin + MAX_SCANS) * channels)
            read = sorted({walk & 3 for walk in walks[k]})
            used = [walk >> 3 for walk in walks[k] if walk >> 3]
            part_walks = [
                read.index(walk & 3) | walk & 4 | (used.index(walk >> 3) + 1 if walk >> 3 else 0) << 3
                for walk in walks[k]
            ]
            parts.append(
                _scan(
                    [sources[i] if sources[i].shape[1] == 1 else sources[i][:, k] for i in read],
                    *(projected[k], None if delta is None else delta[:, k]),
                    *(None if x is None else x[i] for x, i in ((dt_weight, k), (A, kc), (D, kc), (delta_bias, kc))),
                    *([orders[i - 1] for i in used], part_walks, delta_softplus, log_rates, chunk_length),
                )
            )
        return torch.cat(parts, dim=1)

    save_states = needs_gradient(*sources, *projected, delta, dt_weight, A, D, delta_bias)
    y, _ = torch.ops.mmdefmamba.multi_scan(
        *(sources, projected, delta, dt_weight, A, D, delta_bias, _order_tensor(orders), walks, delta_softplus),
        *(log_rates, chunk_length, save_states),
    )
    return y


def _order_tensor(orders):
    """Return orders (L,) or (B, L) as one tensor (rows, 1 or B, L): a view where there is only one."""
    if not orders:
        return None
    if len(orders) == 1:
        return orders[0].view(1, -1, orders[0].shape[-1])
    images = max(row.shape[0] if row.ndim == 2 else 1 for row in orders)
    return torch.stack([row.to(torch.int32).expand(images, -1) for row in orders])
