"""The read of a map at reference points plus offsets, with offset bias, as an operator of PyTorch.

Legend for shapes: B batch, H, W size of the map, L = H * W, C channels, (T, U) size of the table.
"""

import math

import torch

from ..tensors import channel_last, check_offsets

# As in offset_kernels, which cannot be imported without Triton.
TILE_HEIGHT, TILE_WIDTH, TILE, WINDOW = 4, 8, 32, 4
# Registers of a lane in the backward. Without a limit Triton 3.8 takes 167, and 3 programs fit on an SM instead of 4.
REGISTERS = 128
# A program of the backward computes weights once for so many blocks of channels. With more of them, the last stages of
# a network would have too few programs.
BLOCKS_PER_PROGRAM = 6
# Tokens whose gradients of a table one program adds up: so many that the partial sums are small beside the gradients.
CHUNK = 512


def reachable_entries(size, map_size, formulation):
    """Return which entries of a table can be read with offsets in their range, along one axis: the first, and how many.

    Args:
        size: entries of the table along this axis.
        map_size: tokens along this axis.
        formulation: 'paper' or 'released'. The table of the released formulation has the size of the map.
    """
    # The range of a displacement, in coordinates. 'paper': an offset, up to 1 / H. 'released': a key lies up to half a
    # pixel from its reference point, and an offset is up to half a pixel. A pixel is 2 / (H - 1).
    reach = 2 / max(map_size - 1, 1) if formulation == 'released' else 1 / map_size
    middle = (size - 1) / 2
    reach *= middle / 2  # half the displacement, in entries
    first = max(math.floor(middle - reach), 0)
    return first, min(math.ceil(middle + reach), size - 1) - first + 1


def _windows(size, map_size, formulation):
    """Return the first entry and the number of entries of the windows that cover what is reachable along an axis."""
    first, count = reachable_entries(size, map_size, formulation)
    covered = -(-count // WINDOW) * WINDOW
    return first - (covered - count) // 2, covered


def _channel_block(u):
    """Return how many channels of a map a program reads at once: 16 bytes for each of 4 lanes.

    With more, the backward does not have enough registers. The product in ``table_parts`` needs 16.
    """
    channels = u.shape[-1]
    return 16 if u.dtype == torch.float32 or channels <= 16 or channels % 32 == 16 else 32


class _Call:
    """What all kernels of a call are given.

    Args:
        u: map, (B, L, C).
        offsets: (B, H, W, 2), float32.
        table: (T, U, C), float32, contiguous, or None.
        formulation: 'paper' or 'released'.
    """

    def __init__(self, u, offsets, table, formulation):
        self.u, self.offsets = channel_last(u), offsets.contiguous()
        self.table = table
        check_offsets('the map', self.u)
        self.batch, self.height, self.width = offsets.shape[:3]
        self.channels = u.shape[-1]
        self.tiles = -(-self.height // TILE_HEIGHT) * -(-self.width // TILE_WIDTH)
        block = _channel_block(u)
        self.blocks = -(-self.channels // block)
        self.sizes = self.height, self.width, self.channels
        self.table_size, self.windows = (1, 1), (0, 0, WINDOW, WINDOW)
        if table is not None:
            self.table_size = table.shape[:2]
            (y, rows), (x, columns) = (
                _windows(*sizes, formulation) for sizes in zip(self.table_size, self.sizes[:2], strict=True)
            )
            self.windows = y, x, rows, columns
        self.constants = dict(RELEASED=formulation == 'released', C_BLOCK=block)

    def forward(self):
        from .offset_kernels import offset_forward

        out, flags = _empty_results(self.u, self.offsets)
        offset_forward[(self.batch * self.tiles * self.blocks,)](
            *(self.u, self.offsets, self.table, out, flags, *self.u.stride()[:2]),
            *(*self.sizes, *self.table_size, *self.windows),
            HAS_TABLE=self.table is not None,
            **self.constants,
        )
        return out, flags

    def backward(self, dout, flags):
        from .offset_kernels import offset_backward

        dout = channel_last(dout)
        check_offsets('the gradient of the map', dout)
        groups = -(-self.blocks // BLOCKS_PER_PROGRAM)
        du, doffsets = self.u.new_empty(self.u.shape), self.offsets.new_empty(groups, *self.offsets.shape)
        offset_backward[(self.batch * self.tiles * groups,)](
            *(dout, self.u, self.offsets, self.table, flags, du, doffsets, *dout.stride()[:2], *self.u.stride()[:2]),
            *(*self.sizes, *self.table_size),
            HAS_TABLE=self.table is not None,
            C_GROUP=BLOCKS_PER_PROGRAM * self.constants['C_BLOCK'],
            maxnreg=REGISTERS,
            **self.constants,
        )
        doffsets = doffsets[0] if groups == 1 else doffsets.sum(0)
        return du, doffsets, self._table_backward(dout, flags)

    def _table_backward(self, dout, flags):
        from .offset_kernels import offset_table_backward, table_parts

        if self.table is None:
            return self.offsets.new_empty(0)
        chunks = -(-self.batch * self.height * self.width // CHUNK)
        rows, columns = self.windows[2:]
        parts = dout.new_empty(chunks, rows, columns, self.channels, dtype=torch.float32)
        windows = (rows // WINDOW) * (columns // WINDOW)
        table_parts[(chunks * windows * self.blocks,)](
            *(dout, self.offsets, parts, *dout.stride()[:2], self.batch, *self.sizes, *self.table_size, *self.windows),
            CHUNK=CHUNK,
            **self.constants,
        )
        dtable = dout.new_empty(self.channels, *self.table_size, dtype=torch.float32)
        entries = self.table_size[0] * self.table_size[1]
        offset_table_backward[(-(-entries // TILE) * self.blocks,)](
            *(parts.sum(0), dout, self.offsets, flags, dtable, *dout.stride()[:2], self.batch),
            *(*self.sizes, *self.table_size, *self.windows),
            **self.constants,
        )
        return dtable


def _empty_results(u, offsets):
    batch, height, width = offsets.shape[:3]
    flags = offsets.new_empty(batch, -(-height // TILE_HEIGHT) * -(-width // TILE_WIDTH), dtype=torch.int32)
    return u.new_empty(u.shape), flags


@torch.library.custom_op(
    'mmdefmamba::read_at_offsets',
    mutates_args=(),
    schema='(Tensor u, Tensor offsets, Tensor? table, str formulation) -> (Tensor, Tensor, Tensor)',
)
def _read(u, offsets, table, formulation):
    with torch.cuda.device_of(u):
        rows = None if table is None else table.permute(1, 2, 0).clone(memory_format=torch.contiguous_format)
        results = _Call(u, offsets, rows, formulation).forward()
    return *results, _rows_or_nothing(rows, offsets)


@_read.register_fake
def _(u, offsets, table, formulation):
    rows = None if table is None else table.new_empty(*table.shape[1:], table.shape[0])
    return *_empty_results(u, offsets), _rows_or_nothing(rows, offsets)


def _rows_or_nothing(rows, offsets):
    """Return what an operator can return for a table as rows of channels, (T, U, C), which the backward reads, too."""
    return offsets.new_empty(0) if rows is None else rows


@torch.library.custom_op(
    'mmdefmamba::read_at_offsets_backward',
    mutates_args=(),
    schema='(Tensor dout, Tensor u, Tensor offsets, Tensor? table, Tensor flags, str formulation)'
    ' -> (Tensor, Tensor, Tensor)',
)
def _read_backward(dout, u, offsets, table, flags, formulation):
    with torch.cuda.device_of(u):
        return _Call(u, offsets, table, formulation).backward(dout, flags)


@_read_backward.register_fake
def _(dout, u, offsets, table, flags, formulation):
    of_table = offsets.new_empty(0) if table is None else table.new_empty(table.shape[2], *table.shape[:2])
    return u.new_empty(u.shape), offsets.new_empty(offsets.shape), of_table


def _save(ctx, inputs, output):
    u, offsets, table, ctx.formulation = inputs
    _, flags, rows = output
    ctx.save_for_backward(u, offsets, None if table is None else rows, flags)
    ctx.mark_non_differentiable(flags, rows)
    ctx.set_materialize_grads(False)


def _backward(ctx, dout, *_):
    if dout is None:
        return None, None, None, None
    u, offsets, table, flags = ctx.saved_tensors
    du, doffsets, dtable = torch.ops.mmdefmamba.read_at_offsets_backward(
        dout, u, offsets, table, flags, ctx.formulation
    )
    return du, doffsets, None if table is None else dtable, None


_read.register_autograd(_backward, setup_context=_save)


def sample_offsets_triton(u, offsets, table, formulation):
    """Read maps at offsets from the places of their tokens.

    Args:
        u: (B, L, C), float32 or half precision.
        offsets: (B, H, W, 2), float32.
        table: (C, T, U), float32, or None.
        formulation: 'paper' or 'released'.

    Returns:
        (B, L, C), contiguous, dtype of ``u``.
    """
    return torch.ops.mmdefmamba.read_at_offsets(u, offsets, table, formulation)[0]
