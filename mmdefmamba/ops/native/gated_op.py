"""The state space models of a block in one walk, as an operator of PyTorch: time steps, scans, mean and gate.

Neither the time steps (B, K, L, C) nor the results of the single scans are written to memory. The operators take
float32 tensors on the CPU. Legend for shapes: B batch, K scans, L tokens, C channels, N states, R rank.
"""

import torch

from ..tensors import needs_gradient
from . import library
from .scan_calls import BACKWARDS, ScanCall, rows
from .scan_op import walks_of

INPUTS = (
    'Tensor[] sources, Tensor[] projected, Tensor rank_weight, Tensor A, Tensor D, Tensor delta_bias, Tensor z, '
    'Tensor[] orders, int[] walks'
)


def _make_call(sources, projected, rank_weight, A, D, delta_bias, z, orders, walks):
    sizes = [rank_weight.shape[-1], A.shape[1], A.shape[1]]
    rank, B, C = zip(*(x.split(sizes, dim=-1) for x in projected), strict=True)
    call = ScanCall(sources, A, B, C, D, delta_bias, orders, walks, rank=rank, rank_weight=rank_weight, merge=True)
    call.call.z = call.rows(z)
    return call


@torch.library.custom_op(
    'mmdefmamba::native_gated_scan',
    mutates_args=(),
    schema=f'({INPUTS}, bool save) -> (Tensor, Tensor, Tensor)',
)
def _gated_scan(sources, projected, rank_weight, A, D, delta_bias, z, orders, walks, save):
    call = _make_call(sources, projected, rank_weight, A, D, delta_bias, z, orders, walks)
    out = z.new_empty(z.shape)
    mean = z.new_empty(z.shape if save else (0,))
    states = z.new_empty(call.states_shape() if save else (0,))
    call.call.gated = rows(out)
    if save:
        call.call.mean = rows(mean)
        for k, scan in enumerate(call.structs):
            scan.states = states[k].data_ptr()
    call.run('scan_forward')
    return out, mean, states


@_gated_scan.register_fake
def _(sources, projected, rank_weight, A, D, delta_bias, z, orders, walks, save):
    batch, length, channels = z.shape
    scanned = (batch, len(walks), length, channels)
    states = library.states_shape(scanned, A.shape[1]) if save else (0,)
    return z.new_empty(z.shape), z.new_empty(z.shape if save else (0,)), z.new_empty(states)


@torch.library.custom_op(
    'mmdefmamba::native_gated_scan_backward',
    mutates_args=(),
    schema=f'(Tensor dout, Tensor mean, Tensor states, {INPUTS}) '
    '-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)',
)
def _gated_scan_backward(dout, mean, states, sources, projected, rank_weight, A, D, delta_bias, z, orders, walks):
    call = _make_call(sources, projected, rank_weight, A, D, delta_bias, z, orders, walks)
    batch, scans, length, channels = call.shape
    empty = z.new_empty
    dsources = empty(len(sources), batch, length, channels)
    ddelta = empty(scans, batch, length, channels)
    dsum, dz = empty(z.shape), empty(z.shape)
    call.call.dgated, call.call.mean = call.rows(dout), rows(mean)
    call.call.dsum, call.call.dz = rows(dsum), rows(dz)
    read = set()
    for k, (scan, walk) in enumerate(zip(call.structs, walks, strict=True)):
        source = walk % BACKWARDS
        scan.states, scan.dy, scan.ddelta = states[k].data_ptr(), rows(dsum), rows(ddelta[k])
        scan.du, scan.add_to_du = rows(dsources[source]), source in read
        read.add(source)
    dA, dB, dC, dD, dbias = call.run_backward()

    rank = torch.stack([x[..., : rank_weight.shape[-1]] for x in projected]).flatten(1, 2)
    ddelta = ddelta.flatten(1, 2)
    drank = torch.bmm(ddelta, rank_weight).unflatten(1, (batch, length))
    drank_weight = torch.bmm(ddelta.transpose(1, 2), rank)
    return dsources, torch.cat([drank, dB, dC], dim=-1), drank_weight, dA, dD, dbias, dz


@_gated_scan_backward.register_fake
def _(dout, mean, states, sources, projected, rank_weight, A, D, delta_bias, z, orders, walks):
    dsources = z.new_empty(len(sources), *z.shape)
    dprojected = z.new_empty(len(walks), *projected[0].shape)
    return dsources, dprojected, *(x.new_empty(x.shape) for x in (rank_weight, A, D, delta_bias, z))


def _save(ctx, inputs, output):
    sources, projected, rank_weight, A, D, delta_bias, z, orders, walks, _ = inputs
    _, mean, states = output
    ctx.save_for_backward(mean, states, rank_weight, A, D, delta_bias, z, *sources, *projected, *orders)
    ctx.num_sources, ctx.walks = len(sources), walks
    ctx.mark_non_differentiable(mean, states)
    ctx.set_materialize_grads(False)


def _backward(ctx, dout, *_):
    mean, states, rank_weight, A, D, delta_bias, z, *lists = ctx.saved_tensors
    first_order = ctx.num_sources + len(ctx.walks)
    sources, projected, orders = lists[: ctx.num_sources], lists[ctx.num_sources : first_order], lists[first_order:]
    if dout is None:
        return (None,) * 10
    dsources, dprojected, *others = torch.ops.mmdefmamba.native_gated_scan_backward(
        dout, mean, states, sources, projected, rank_weight, A, D, delta_bias, z, orders, ctx.walks
    )
    return [*dsources.unbind()], [*dprojected.unbind()], *others, [None] * len(orders), None, None


_gated_scan.register_autograd(_backward, setup_context=_save)


def gated_multi_scan_native(maps, projected, dt_weight, A, D, delta_bias, z, orders):
    """Run the state space models of a block; arguments as of :func:`~mmdefmamba.ops.gated_multi_scan`, checked there.

    Returns:
        (B, L, C), float32.
    """
    sources, permutations, walks = walks_of(maps, orders)
    sources, projected = [x.float() for x in sources], [x.float() for x in projected]
    dt_weight, A, D, delta_bias, z = (x.float() for x in (dt_weight, A, D, delta_bias, z))
    save = needs_gradient(*sources, *projected, dt_weight, A, D, delta_bias, z)
    out, _, _ = torch.ops.mmdefmamba.native_gated_scan(
        sources, projected, dt_weight, A, D, delta_bias, z, permutations, walks, save
    )
    return out
