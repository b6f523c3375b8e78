"""The multi-scan of the compiled kernels as an operator of PyTorch, for torch.compile, autograd and callers.

The operators take float32 tensors on the CPU. Legend for shapes: B batch, K scans, L tokens, C channels, N states.
"""

import torch

from ..tensors import distinct, needs_gradient
from . import library
from .scan_calls import BACKWARDS, ORDER_SHIFT, ScanCall, rows


@torch.library.custom_op(
    'mmdefmamba::native_scan',
    mutates_args=(),
    schema='(Tensor[] sources, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, '
    'Tensor[] orders, int[] walks, bool softplus, bool save_states) -> (Tensor, Tensor)',
)
def _scan(sources, delta, A, B, C, D, delta_bias, orders, walks, softplus, save_states):
    call = ScanCall(sources, A, B, C, D, delta_bias, orders, walks, delta=delta, softplus=softplus)
    y = delta.new_empty(delta.shape)
    states = delta.new_empty(call.states_shape() if save_states else (0,))
    for k, scan in enumerate(call.structs):
        scan.y = rows(y[:, k])
        scan.states = states[k].data_ptr() if save_states else None
    call.run('scan_forward')
    return y, states


@_scan.register_fake
def _(sources, delta, A, B, C, D, delta_bias, orders, walks, softplus, save_states):
    shape = library.states_shape(delta.shape, A.shape[1]) if save_states else (0,)
    return delta.new_empty(delta.shape), delta.new_empty(shape)


@torch.library.custom_op(
    'mmdefmamba::native_scan_backward',
    mutates_args=(),
    schema='(Tensor dy, Tensor states, Tensor[] sources, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, '
    'Tensor? delta_bias, Tensor[] orders, int[] walks, bool softplus) '
    '-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)',
)
def _scan_backward(dy, states, sources, delta, A, B, C, D, delta_bias, orders, walks, softplus):
    call = ScanCall(sources, A, B, C, D, delta_bias, orders, walks, delta=delta, softplus=softplus)
    du, ddelta = delta.new_empty(delta.shape), delta.new_empty(delta.shape)
    for k, scan in enumerate(call.structs):
        scan.states = states[k].data_ptr()
        scan.dy, scan.du, scan.ddelta = call.rows(dy[:, k]), rows(du[:, k]), rows(ddelta[:, k])
    dA, dB, dC, dD, dbias = call.run_backward()
    return du, ddelta, dA, dB.transpose(0, 1).contiguous(), dC.transpose(0, 1).contiguous(), dD, dbias


@_scan_backward.register_fake
def _(dy, states, sources, delta, A, B, C, D, delta_bias, orders, walks, softplus):
    per_channel = A.new_empty(len(A)), A.new_empty(len(A))
    maps = (delta.new_empty(delta.shape) for _ in range(2))
    return *maps, *(x.new_empty(x.shape) for x in (A, B, C)), *per_channel


def _save(ctx, inputs, output):
    sources, delta, A, B, C, D, delta_bias, orders, walks, softplus, _ = inputs
    ctx.save_for_backward(output[1], delta, A, B, C, D, delta_bias, *sources, *orders)
    ctx.num_sources, ctx.walks, ctx.softplus = len(sources), walks, softplus
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, dy, _):
    states, delta, A, B, C, D, delta_bias, *others = ctx.saved_tensors
    sources, orders = others[: ctx.num_sources], others[ctx.num_sources :]
    if dy is None:
        return (None,) * 11
    du, ddelta, dA, dB, dC, dD, dbias = torch.ops.mmdefmamba.native_scan_backward(
        dy, states, sources, delta, A, B, C, D, delta_bias, orders, ctx.walks, ctx.softplus
    )
    dsources = [du] if sources[0].ndim == 4 else sums_of_readers(du, ctx.walks, len(sources))
    dD = None if D is None else dD
    dbias = None if delta_bias is None else dbias
    return dsources, ddelta, dA, dB, dC, dD, dbias, [None] * len(orders), None, None, None


def sums_of_readers(du, walks, num_sources):
    """Sum the gradients (B, K, L, C) over the scans that read each source; the order is always the same."""
    readers = [[k for k, walk in enumerate(walks) if walk % BACKWARDS == i] for i in range(num_sources)]
    return [du[:, scans[0]] if len(scans) == 1 else sum(du[:, k] for k in scans) for scans in readers]


_scan.register_autograd(_backward, setup_context=_save)


def walks_of(maps, orders):
    """Return the distinct maps, the permutations that a kernel reads, and one walk per scan (:mod:`.scan_calls`)."""
    sources, walks = distinct(maps)
    permutations = []
    for k, order in enumerate(orders):
        if order is not None and order.backwards:
            walks[k] |= BACKWARDS
        elif order is not None:
            permutations.append(order.order)
            walks[k] |= len(permutations) << ORDER_SHIFT
    return sources, permutations, walks


def multi_scan_native(maps, delta, A, B, C, D, delta_bias, orders):
    """Run a multi-scan with the compiled kernels; arguments as of :func:`~mmdefmamba.ops.multi_scan`, checked there."""
    sources, permutations, walks = walks_of(maps, orders)
    return _run(sources, delta, A, B, C, D, delta_bias, permutations, walks, True)


def selective_scan_native(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """Run a selective scan; arguments as of :func:`~mmdefmamba.ops.selective_scan`, checked there.

    The kernels read channel-last tensors. An input that is stored channel-last is read where it lies, whatever its
    shape says; any other input is copied.
    """
    groups = B.shape[1]

    def channel_last(x):  # (b, k*c, l) -> (b, k, l, c)
        return x.unflatten(1, (groups, -1)).transpose(2, 3)

    B, C = B.transpose(2, 3), C.transpose(2, 3)
    y = _run([channel_last(u)], channel_last(delta), A, B, C, D, delta_bias, [], [0] * groups, delta_softplus)
    return y.transpose(2, 3).flatten(1, 2)


def _run(sources, delta, A, B, C, D, delta_bias, orders, walks, softplus):
    dtype = sources[0].dtype
    sources = [x.float() for x in sources]
    delta, A, B, C = (x.float() for x in (delta, A, B, C))
    D, delta_bias = (None if x is None else x.float() for x in (D, delta_bias))
    save_states = needs_gradient(*sources, delta, A, B, C, D, delta_bias)
    y, _ = torch.ops.mmdefmamba.native_scan(
        sources, delta, A, B, C, D, delta_bias, orders, walks, softplus, save_states
    )
    return y.to(dtype)
