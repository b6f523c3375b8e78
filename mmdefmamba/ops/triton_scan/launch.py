"""Launches of the kernels: their grids, buffers and strides."""

from dataclasses import dataclass

import torch
import triton

from ..tensors import channel_last, check_offsets, grid_of
from . import layout
from .backward import scan_backward
from .chunks import chunk_ends, pass_carries
from .forward import scan_forward
from .options import scan_options
from .rows import sum_rows

#: Whether Triton interprets the kernels on a CPU (TRITON_INTERPRET=1 when they were imported)
INTERPRETED = not isinstance(scan_forward, triton.JITFunction)

T = 4  # tokens of a tile
# The lanes of the backward form a rectangle of 4 states by 8 channels. Each lane holds n / 4 states by 4 channels.
N_LOW, C_LOW = 4, 8
MAX_GROUP = 16  # states that a program processes at once
ROWS_BLOCK = 1024  # numbers of a program that adds up gradients of B and C


@dataclass
class _Grid:
    """Sizes of one call, and the numbers of blocks, chunks, groups and warps that follow from them."""

    batch: int
    scans: int
    length: int
    channels: int
    states: int
    chunk_length: int
    block: int
    registers: int | None

    def __post_init__(self):
        # A lane holds 16 numbers of a state: the registers hold no more beside the other values.
        self.states_padded = min(MAX_GROUP, max(N_LOW, triton.next_power_of_2(self.states)))
        self.groups = triton.cdiv(self.states, self.states_padded)
        self.blocks = triton.cdiv(self.channels, self.block)
        self.chunks = triton.cdiv(self.length, self.chunk_length)
        self.programs = self.blocks * self.chunks * self.scans * self.batch

    @property
    def grid(self):
        return grid_of(self.programs)

    @property
    def sizes(self):
        """The sizes that every walk over the tokens takes."""
        return self.scans, self.chunks, self.length, self.channels, self.chunk_length

    @property
    def states_shape(self):
        """The shape of one state per chunk."""
        return self.batch, self.scans, self.chunks, self.states, self.channels

    @property
    def constants(self):
        """The compile-time arguments that all kernels take, and the options of the compiler."""
        constants = dict(N=self.states, GROUPS=self.groups, num_warps=1)
        if self.registers is not None:  # only the compiler for NVIDIA's GPUs knows this option
            constants['maxnreg'] = self.registers
        return constants


def choose_chunk_length(programs, length, device):
    """Return how many tokens one program processes: all of them, unless too few programs would run to fill the GPU.

    With chunks, tokens are processed twice instead of once. So chunks must at least double the number of programs.
    """
    options = scan_options()
    if options.chunks:
        return _whole_checkpoints(triton.cdiv(length, options.chunks), length)
    if device.type != 'cuda':
        return length
    wanted = options.programs_per_multiprocessor * torch.cuda.get_device_properties(device).multi_processor_count
    if programs * 2 > wanted:
        return length
    return _whole_checkpoints(max(options.min_chunk, triton.cdiv(length, wanted // programs)), length)


def choose_blocks(blocks, programs, device):
    """Return how many blocks of channels one program of the backward processes, one after the other.

    A program adds up the gradients of B and C over its blocks and uses its scratch memory again for each of them, so
    less is written and read. But enough programs must be left to fill the GPU.

    Args:
        blocks: blocks of channels.
        programs: programs with one block each.
    """
    options = scan_options()
    if options.backward_blocks:
        return min(options.backward_blocks, blocks)
    if device.type != 'cuda':
        return 1
    wanted = options.programs_per_multiprocessor * torch.cuda.get_device_properties(device).multi_processor_count
    return max((n for n in range(1, blocks + 1) if blocks % n == 0 and programs // n >= wanted), default=1)


def _whole_checkpoints(chunk_length, length):
    return min(length, triton.cdiv(chunk_length, layout.CHECKPOINT) * layout.CHECKPOINT)


def _packed(walks):
    return sum(walk << 8 * k for k, walk in enumerate(walks))


class _Call:
    """Inputs of one call in the layout that the kernels need, and the arguments that kernels share.

    Arguments as in the schema of the operator. ``block`` and ``registers`` are options of the launch.
    """

    def __init__(
        self, sources, projected, delta, dt_weight, A, D, delta_bias, order, walks, delta_softplus, log_rates,
        chunk_length, block, registers,
    ):  # fmt: skip
        self.sources = [channel_last(u) for u in sources]
        if any(u.stride() != self.sources[0].stride() for u in self.sources):
            self.sources = [u.contiguous() for u in self.sources]
        self.rows = [channel_last(x) for x in projected]
        self.first_column = projected[0].shape[-1] - 2 * A.shape[1]
        self.rank = 0
        if delta is None and self.first_column <= scan_options().largest_rank:
            self.rank, self.dt_weight = self.first_column, dt_weight.contiguous()
        else:
            self.dt_weight = None
            delta = project_steps(projected, dt_weight) if delta is None else channel_last(delta)
        self.delta = delta
        batch, scans, length, channels = layout.scanned_shape(sources, walks)
        self.A = A.float().unflatten(0, (scans, -1)).transpose(1, 2).contiguous()
        self.log_rates = log_rates
        self.D, self.delta_bias = (None if x is None else x.contiguous() for x in (D, delta_bias))
        self.order, self.softplus = None if order is None else channel_last(order), delta_softplus
        self.walks = _packed(walks)
        self.walks_of_dy = _packed([walk & ~3 for walk in walks])  # the gradient of y is the only source
        for name, x in (('maps', self.sources[0]), ('delta', self.delta)):
            if x is not None:
                check_offsets(name, x)
        for x in self.rows:
            check_offsets('B and C' if dt_weight is None else 'projected', x)

        if chunk_length % layout.CHECKPOINT:
            raise ValueError(f'chunk_length must be a multiple of {layout.CHECKPOINT}, got {chunk_length}')
        programs = batch * scans * triton.cdiv(channels, block)
        chunk_length = min(chunk_length, length) or choose_chunk_length(programs, length, sources[0].device)
        self.grid = _Grid(batch, scans, length, channels, A.shape[1], chunk_length, block, registers)

    def pointers(self, sources=None):
        """Return four sources, the rows of four scans, and what the time step is made of: with fewer, the last again.

        Args:
            sources: maps in the place of the inputs.
        """

        def four(tensors):
            return [tensors[min(i, len(tensors) - 1)] for i in range(4)]

        return *four(sources or self.sources), *four(self.rows), self.delta, self.dt_weight

    def strides(self, u=None):
        """Return the strides that belong to :meth:`pointers`, and the column in which the B of a row begins."""
        u = self.sources[0] if u is None else u
        delta = (0, 0, 0) if self.delta is None else self.delta.stride()[:3]
        rows = [self.rows[min(i, len(self.rows) - 1)].stride() for i in range(4)]
        return (
            *(u.stride(0), u.stride(1) if u.shape[1] > 1 else 0, u.stride(2)),
            *delta,
            *(x[0] for x in rows),
            *(x[1] for x in rows),
            self.first_column,
        )

    @property
    def order_strides(self):
        if self.order is None:
            return 0, 0
        return self.order.stride(0), self.order.stride(1) if self.order.shape[1] > 1 else 0

    @property
    def constants(self):
        """Return the compile-time arguments that every walk over the tokens takes, and the options of the compiler."""
        return dict(
            T=T,
            RANK=self.rank,
            RANK_PADDED=triton.next_power_of_2(max(self.rank, 1)),
            SOFTPLUS=self.softplus,
            LOG_RATES=self.log_rates,
            HAS_BIAS=self.delta_bias is not None,
            HAS_ORDER=self.order is not None,
            **self.grid.constants,
        )

    def carries(self, dy=None):
        """Return the state that reaches each chunk, (B, K, chunks, N, C), float32.

        With ``dy`` it is the gradient of the state, which reaches a chunk from the chunks after it.
        """
        grid, adjoint = self.grid, dy is not None
        ends = self.A.new_empty(grid.states_shape)
        if grid.chunks == 1:
            return ends.zero_()
        delta_sums = ends.new_empty(grid.batch, grid.scans, grid.chunks, grid.channels)
        blocks = dict(N_PADDED=grid.states_padded, C_BLOCK=grid.block, ADJOINT=adjoint)
        chunk_ends[grid_of(grid.programs * grid.groups)](
            *self.pointers([dy] if adjoint else None),
            *(self.A, self.delta_bias, self.order, ends, delta_sums),
            *(self.walks_of_dy if adjoint else self.walks, *grid.sizes),
            *(*self.strides(dy), *self.order_strides),
            **blocks,
            **self.constants,
        )
        pass_carries[grid_of(grid.programs // grid.chunks * grid.groups)](
            *(ends, delta_sums, self.A, grid.scans, grid.chunks, grid.channels),
            **dict(LOG_RATES=self.log_rates, **blocks, **grid.constants),
        )
        return ends


def project_steps(projected, dt_weight):
    """Return the time steps before bias and softplus, (B, K, L, C), stored scan by scan.

    Args:
        projected: K tensors (B, L, R + 2N), whose first R columns are projected where they lie.
        dt_weight: (K, C, R).
    """
    scans, channels, rank = dt_weight.shape
    batch, length, _ = projected[0].shape
    delta = projected[0].new_empty(scans, batch, length, channels)
    for rows, weight, out in zip(projected, dt_weight.to(delta.dtype), delta, strict=True):
        torch.mm(rows[..., :rank].flatten(0, 1), weight.T, out=out.flatten(0, 1))
    return delta.transpose(0, 1)


def gradients_of_projection(ddelta, projected, dt_weight, dprojected):
    """Return the gradient of ``dt_weight``, (K, C, R), and write the first R columns of that of the rows.

    Args:
        dprojected: (B, L, K, R + 2N).
        ddelta: gradient of the time steps, (K, B, L, C).
        projected, dt_weight: as of :func:`project_steps`.
    """
    rank = dt_weight.shape[-1]
    weights = dt_weight.to(ddelta.dtype)
    gradient = torch.empty_like(weights, memory_format=torch.contiguous_format)
    for k, rows in enumerate(projected):
        of_steps = ddelta[k].flatten(0, 1)
        torch.mm(of_steps, weights[k], out=dprojected[:, :, k, :rank].flatten(0, 1))
        torch.mm(of_steps.T, rows[..., :rank].flatten(0, 1), out=gradient[k])
    return gradient


def launch_forward(
    sources, projected, delta, dt_weight, A, D, delta_bias, order, walks, delta_softplus, log_rates, chunk_length,
    save_states,
):  # fmt: skip
    """Return y and the states at checkpoints; arguments as in the schema of the operator."""
    y, states = layout.empty_results(sources, A, walks, save_states)
    check_offsets('y', y)
    if save_states:
        check_offsets('states at checkpoints', states.flatten(3))
    options = scan_options()
    with torch.cuda.device_of(y):
        x = _Call(
            *(sources, projected, delta, dt_weight, A, D, delta_bias, order, walks, delta_softplus, log_rates),
            *(chunk_length, options.forward_block, options.forward_registers),
        )
        grid = x.grid
        starts = x.carries() if grid.chunks > 1 or grid.groups > 1 else None
        scan_forward[grid.grid](
            *x.pointers(),
            *(x.A, x.D, x.delta_bias, x.order, starts, y, states, x.walks, *grid.sizes),
            *(*x.strides(), *x.order_strides),
            N_PADDED=grid.states_padded,
            C_BLOCK=grid.block,
            CHECKPOINT=layout.CHECKPOINT,
            HAS_D=x.D is not None,
            HAS_STARTS=starts is not None,
            SAVE_STATES=save_states,
            CARRY_FLOAT32=options.float32_carry,
            **x.constants,
        )
    return y, states


def launch_backward(
    dy, states, sources, projected, delta, dt_weight, A, D, delta_bias, order, walks, delta_softplus, log_rates,
    chunk_length,
):  # fmt: skip
    """Return the gradients of u for each scan (B, K, L, C), and those of the other inputs.

    The layout is that of :func:`.layout.empty_gradients`. Sums over programs (over images for A, D and the bias, over
    blocks of channels for B and C) are written in parts and added up here. There are no atomics, so every run gives the
    same bits.
    """
    options = scan_options()
    dy = channel_last(dy)
    check_offsets('the gradient of y', dy)
    with torch.cuda.device_of(dy):
        x = _Call(
            *(sources, projected, delta, dt_weight, A, D, delta_bias, order, walks, delta_softplus, log_rates),
            *(chunk_length, options.backward_block, options.backward_registers),
        )
        grid = x.grid

        def parts(*shape):
            return x.A.new_empty(shape)

        batch_scans = (grid.batch, grid.scans)
        du = sources[0].new_empty(*batch_scans, grid.length, grid.channels)
        if delta is not None:
            ddelta = delta.new_empty(du.shape)
        else:  # scan by scan, for the products below
            ddelta = projected[0].new_empty(grid.scans, grid.batch, *du.shape[2:]).transpose(0, 1)
        dA = parts(*grid.states_shape)
        if grid.groups > 1:
            dA.zero_()
        dD, dbias = (None if p is None else parts(*batch_scans, grid.chunks, grid.channels) for p in (D, delta_bias))
        blocks = choose_blocks(grid.blocks, grid.programs, dy.device)
        parts_of_rows = triton.cdiv(grid.blocks, blocks)
        programs = grid.programs // grid.blocks * parts_of_rows
        # A program that adds up several blocks does so in float32. Each other part is rounded to the dtype of the sum,
        # as PyTorch's matrix products in half precision round their parts: in stage 1 this halves the largest result.
        shape_of_rows = (*batch_scans, parts_of_rows, grid.length, 2 * grid.states)
        drows = x.A.new_empty(shape_of_rows, dtype=x.A.dtype if blocks > 1 else projected[0].dtype)
        tiles = triton.cdiv(min(layout.CHECKPOINT, grid.length), T)
        rows_of_scratch = grid.states_padded + (2 * T if grid.groups > 1 else 0)
        scratch = parts(programs, tiles, rows_of_scratch, grid.block)
        after = x.carries(dy) if grid.chunks > 1 or grid.groups > 1 else None
        scan_backward[grid_of(programs)](
            *x.pointers(),
            *(x.A, x.D, x.delta_bias, x.order, dy, states, scratch, after, du, ddelta, dA),
            *(drows, drows if blocks > 1 else None, dD, dbias, x.walks, *grid.sizes),
            *(*x.strides(), *dy.stride()[:3], *ddelta.stride()[:2], *x.order_strides),
            N_HIGH=grid.states_padded // N_LOW,
            N_LOW=N_LOW,
            C_HIGH=grid.block // C_LOW,
            C_LOW=C_LOW,
            TILES=tiles,
            BLOCKS=blocks,
            CHECKPOINT=layout.CHECKPOINT,
            HAS_D=x.D is not None,
            HAS_AFTER=after is not None,
            **x.constants,
        )
        dprojected = layout.empty_rows(projected)
        size, columns = grid.length * 2 * grid.states, 2 * grid.states
        sum_rows[grid_of(triton.cdiv(size, ROWS_BLOCK) * grid.scans * grid.batch)](
            *(drows, dprojected, grid.scans, parts_of_rows, size, columns, dprojected.shape[-1]),
            *(x.first_column,),
            BLOCK=ROWS_BLOCK,
        )
        ddt_weight = None
        if delta is None:
            ddt_weight = gradients_of_projection(ddelta.transpose(0, 1), projected, dt_weight, dprojected)
    none = du.new_empty(0)
    of_rates = dA.sum((0, 2))
    if log_rates:
        of_rates = of_rates * -x.A.exp()
    sums = [(ddt_weight, dt_weight), (of_rates.transpose(1, 2), A)]
    sums += [(None if part is None else part.sum((0, 2)), of) for part, of in ((dD, D), (dbias, delta_bias))]
    totals = (none.clone() if total is None else layout.row_major(total, of) for total, of in sums)
    return du, dprojected, none if delta is None else ddelta, *totals
