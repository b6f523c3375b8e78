"""Sampling with offset bias by the compiled kernels, as an operator of PyTorch.

Legend for shapes: B batch, C channels, H, W size of the map, L points per image, T, U size of the table.
"""

import math

import torch

from ..tensors import channel_last
from . import library
from .scan_calls import TASKS_PER_THREAD, rows
from .structs import Sample

POINTS_PER_TASK = 64  # as in csrc/sampling.c


class _SampleCall:
    """The struct of one call, and the tensors whose addresses are in it.

    Args:
        u: map, (B, H, W, C).
        at: points, (y, x) in [-1, 1], (B, L, 2).
        table: offset bias (T, U, C), or None, and ``table_at`` like ``at``.
    """

    def __init__(self, u, at, table, table_at):
        self.library = library.LIBRARY
        self.images, self.points, _ = at.shape
        height, width, channels = u.shape[1:]
        vectors = -(-channels // self.library.lanes)
        tasks = max(1, min(vectors, -(-TASKS_PER_THREAD * library.threads() // self.images)))
        vectors_per_group = -(-vectors // tasks)
        self.groups = -(-vectors // vectors_per_group)
        self.part = slice(0, 0), slice(0, 0)
        table_size = (0, 0)
        if table is not None:
            table_size = table.shape[:2]
            self.part = _reachable(table_size, table_at)
        (top, _, _), (left, right, _) = (part.indices(size) for part, size in zip(self.part, table_size, strict=True))
        self.call = Sample(
            *(self.images, height, width, channels, self.points, *table_size, top, left, right - left),
            vectors_per_group,
        )
        self.kept = [channel_last(u.flatten(1, 2)), at.contiguous()]
        self.call.u, self.call.at = rows(self.kept[0]), self.kept[1].data_ptr()
        if table is not None:
            self.kept += [table[self.part].contiguous(), table_at.contiguous()]
            self.call.table, self.call.table_at = (x.data_ptr() for x in self.kept[2:])

    def run(self, kernel, tasks):
        self.library.run(kernel, self.call, tasks)


def _reachable(size, points):
    """Return slices of the rows and columns of a table that some points read.

    The displacements of a network stay within one pixel of its map, so this is a few entries in the middle of a table.
    """
    low, high = torch.aminmax(points.flatten(0, 1), dim=0)
    slices = []
    for side, first, last in zip(size, low.tolist(), high.tolist(), strict=True):
        first, last = ((x + 1) / 2 * (side - 1) for x in (first, last))
        if not math.isfinite(first + last):
            slices.append(slice(0, side))
            continue
        # two pixels more at each end: the pixel after the last point, and one for rounding
        begin = min(max(math.floor(first) - 1, 0), side - 1)
        slices.append(slice(begin, max(min(math.floor(last) + 3, side), begin + 1)))
    return tuple(slices)


@torch.library.custom_op(
    'mmdefmamba::native_sample',
    mutates_args=(),
    schema='(Tensor u, Tensor at, Tensor? table, Tensor? table_at) -> Tensor',
)
def _sample(u, at, table, table_at):
    call = _SampleCall(u, at, table, table_at)
    out = u.new_empty(*at.shape[:2], u.shape[-1])
    call.call.out = rows(out)
    call.run('sample_forward', call.images * -(-call.points // POINTS_PER_TASK))
    return out


@_sample.register_fake
def _(u, at, table, table_at):
    return u.new_empty(*at.shape[:2], u.shape[-1])


@torch.library.custom_op(
    'mmdefmamba::native_sample_backward',
    mutates_args=(),
    schema='(Tensor dout, Tensor u, Tensor at, Tensor? table, Tensor? table_at) -> (Tensor, Tensor, Tensor, Tensor)',
)
def _sample_backward(dout, u, at, table, table_at):
    call = _SampleCall(u, at, table, table_at)
    du = u.new_zeros(u.shape)
    dat = u.new_empty(call.groups, *at.shape)
    dout = channel_last(dout)
    call.call.dout, call.call.du, call.call.dat = rows(dout), rows(du.flatten(1, 2)), dat.data_ptr()
    if table is None:
        call.run('sample_backward', call.images * call.groups)
        return du, dat.sum(0), u.new_empty(0), u.new_empty(0)
    dtable, dtable_at = table.new_zeros(table.shape), at.new_empty(call.groups, *at.shape)
    dpart = torch.zeros_like(call.kept[2])
    call.call.dtable, call.call.dtable_at = dpart.data_ptr(), dtable_at.data_ptr()
    call.run('sample_backward', call.images * call.groups)
    call.run('sample_backward_table', call.groups)
    dtable[call.part] = dpart
    return du, dat.sum(0), dtable, dtable_at.sum(0)


@_sample_backward.register_fake
def _(dout, u, at, table, table_at):
    of_table = (0, 0) if table is None else (table.shape, at.shape)
    return u.new_empty(u.shape), at.new_empty(at.shape), *(u.new_empty(shape) for shape in of_table)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, dout):
    u, at, table, table_at = ctx.saved_tensors
    du, dat, dtable, dtable_at = torch.ops.mmdefmamba.native_sample_backward(dout, u, at, table, table_at)
    return (du, dat, None, None) if table is None else (du, dat, dtable, dtable_at)


_sample.register_autograd(_backward, setup_context=_save)


def sample_native(u, points, table, table_points):
    """Read maps at points; arguments as of :func:`~mmdefmamba.ops.sample_points`, checked there.

    Returns:
        (B, out_height, out_width, C), float32.
    """
    size = points.shape[1:3]
    at, table_at = (None if x is None else x.float().flatten(1, 2) for x in (points, table_points))
    u, table = (None if x is None else x.float() for x in (u.permute(0, 2, 3, 1), table))
    table = None if table is None else table.permute(1, 2, 0)
    return torch.ops.mmdefmamba.native_sample(u, at, table, table_at).unflatten(1, size)
