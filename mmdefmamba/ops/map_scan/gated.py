"""The state space models of a block, from the projections of their maps to the gated mean of their results."""

import torch

from ..merge import merge_scans
from ..native import gated_multi_scan_native
from ..precision import at_least_float32, saturate, without_autocast
from ..sequence_scan.interface import choose_backend, prefers_triton
from ..tensors import needs_gradient
from ..triton_scan import projected_scan_triton
from ..triton_scan.layout import MAX_SOURCES
from .multi import check_maps, multi_scan


def decay_rates(A_log):
    """Return A = -exp(A_log), in float32 or wider."""
    return -torch.exp(at_least_float32(A_log))


def split_projections(projected, dt_weight, states):
    """Split the projections of K maps into the inputs of a multi-scan, and project the time step.

    Args:
        projected: K tensors, (B, L, R + 2N), see :func:`gated_multi_scan`.
        dt_weight: (K, C, R).
        states: N.

    Returns:
        delta, the time step before bias and softplus, (B, K, L, C); B and C, (B, K, L, N).
    """
    projected = torch.stack(projected)
    dt, B, C = projected.split([dt_weight.shape[-1], states, states], dim=-1)
    delta = torch.bmm(dt.flatten(1, 2), dt_weight.transpose(1, 2)).unflatten(1, dt.shape[1:3])
    return delta.transpose(0, 1), B.transpose(0, 1), C.transpose(0, 1)


def reads_maps_apart(x, scans, states, backend='auto'):
    """Return whether :func:`gated_multi_scan` reads each scan's map where it lies, and gives each its own gradient.

    Then scans of one map may be given views of it. The Triton kernels do so; a compiled or differentiated plain path
    would gather the tokens of each view.

    Args:
        x: a tensor of the kind that will be scanned.
        scans: number of scans.
        states: N.
        backend: see :func:`~mmdefmamba.ops.selective_scan`.
    """
    return (
        needs_gradient(x)
        and prefers_triton(x)
        and scans <= MAX_SOURCES
        and (choose_backend(backend, x, states) == 'triton')
    )


def gated_multi_scan(maps, projected, dt_weight, A, D, delta_bias, z, orders, *, log_rates=False, backend='auto'):
    """Run K state space models and return the gated mean of their results: mean_k(y_k) * SiLU(z).

    The 'native' backend does it in one walk, which writes neither the time steps nor the single results to memory. The
    'triton' backend reads the projections where they lie and projects small time steps itself, then merges the results.
    Any other backend runs :func:`~mmdefmamba.ops.multi_scan` and :func:`~mmdefmamba.ops.merge_scans`. So do these two
    where an order has ``keys``, whose gradient needs the single results and the time steps.

    Args:
        maps: K tensors, (B, L, C), see :func:`~mmdefmamba.ops.multi_scan`.
        projected: K tensors, (B, L, R + 2N): of each token the R numbers from which its time step is projected, then
            its B, then its C.
        dt_weight: projection of the time step, (K, C, R).
        A: decay rates, negative, (K*C, N); with ``log_rates`` the logarithms of their amounts.
        D: weight of the skip, (K*C,).
        delta_bias: (K*C,).
        z: gate, (B, L, C), any strides.
        orders: K entries, see :func:`~mmdefmamba.ops.multi_scan`.
        log_rates: whether ``A`` has logarithms. The 'triton' backend computes the rates in its kernels then.
        backend: see :func:`~mmdefmamba.ops.selective_scan`.

    Returns:
        (B, L, C), in the wider of the dtypes of the maps and ``z``. In float16 an overflow becomes 65504.

    Raises:
        ValueError: the shapes do not fit each other, or the backend is unknown.
        TypeError: a tensor is not floating point, or some tensors are float64 and others are not.
        RuntimeError: the named backend cannot run here; the message says why.

    Source: DefMamba, figure 3a.
    """
    states = A.shape[-1]
    _check(maps, projected, dt_weight, A, D, delta_bias, z, orders)
    keys = torch.is_grad_enabled() and any(order is not None and order.keys is not None for order in orders)
    chosen = choose_backend(backend, maps[0], states)
    if chosen == 'triton' and not keys:
        with without_autocast(z.device.type):
            y = saturate(projected_scan_triton(maps, projected, dt_weight, A, D, delta_bias, orders, log_rates))
        return merge_scans(y, z, backend=backend)
    if log_rates:
        A = decay_rates(A)
    if chosen == 'native' and not keys:
        dtype = torch.promote_types(maps[0].dtype, z.dtype)
        with without_autocast(z.device.type):
            out = gated_multi_scan_native(maps, projected, dt_weight, A, D, delta_bias, z, orders)
            return saturate(out.to(dtype))
    delta, B, C = split_projections(projected, dt_weight, states)
    y = multi_scan(maps, delta, A, B, C, D, delta_bias, orders, backend=backend)
    return merge_scans(y, z, backend=backend)


def _check(maps, projected, dt_weight, A, D, delta_bias, z, orders):
    check_maps(maps, A, D, delta_bias, orders, projected=projected[0], dt_weight=dt_weight, z=z)
    batch, length, channels = maps[0].shape
    scans, columns = len(maps), dt_weight.shape[-1] + 2 * A.shape[1]
    if dt_weight.ndim != 3 or tuple(dt_weight.shape[:2]) != (scans, channels):
        raise ValueError(f'dt_weight must be ({scans}, {channels}, R) to fit the maps, got {tuple(dt_weight.shape)}')
    shapes = [tuple(x.shape) for x in projected]
    if shapes != [(batch, length, columns)] * scans:
        raise ValueError(f'projected must be {scans} tensors {(batch, length, columns)} to fit the maps, got {shapes}')
    if z.shape != maps[0].shape:
        raise ValueError(f'z must be {tuple(maps[0].shape)} as the maps, got {tuple(z.shape)}')
