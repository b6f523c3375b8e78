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

#: Whether Triton interprets the kernels on a CPU (TRITON_INTERPRET=1 when they were imported)
INTERPRETED = not isinstance(scan_forward, triton.JITFunction)

T = 4  # tokens of a tile
# The lanes of the backward form a rectangle of 4 states by 8 channels. Each lane holds n / 4 states by 4 channels.
N_LOW, C_LOW = 4, 8


@dataclass
class _Grid:
    """Sizes of one call, and the numbers of blocks, chunks and warps that follow from them."""

    batch: int
    scans: int
    length: int
    channels: int
    states: int
    chunk_length: int
    block: int
    registers: int | None

    def __post_init__(self):
        self.states_padded = max(N_LOW, triton.next_power_of_2(self.states))
        self.blocks = triton.cdiv(self.channels, self.block)
        self.chunks = triton.cdiv(self.length, self.chunk_length)
        # 16 numbers of a state per lane: the registers hold no more beside the other values
        self.warps = max(1, self.states_padded * self.block // 512)
        self.programs = self.blocks * self.chunks * self.scans * self.batch

    def __call__(self, chunks=None):
        return grid_of(self.programs // self.chunks * (chunks or self.chunks))

    @property
    def sizes(self):
        """The sizes that every walk over the tokens takes."""
        return self.scans, self.chunks, self.length, self.channels, self.chunk_length


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


def _whole_checkpoints(chunk_length, length):
    return min(length, triton.cdiv(chunk_length, layout.CHECKPOINT) * layout.CHECKPOINT)


def _grid(delta, A, chunk_length, block, registers):
    batch, scans, length, channels = delta.shape
    if chunk_length % layout.CHECKPOINT:
        raise ValueError(f'chunk_length must be a multiple of {layout.CHECKPOINT}, got {chunk_length}')
    programs = batch * scans * triton.cdiv(channels, block)
    chunk_length = min(chunk_length, length) or choose_chunk_length(programs, length, delta.device)
    return _Grid(batch, scans, length, channels, A.shape[1], chunk_length, block, registers)


def compiler_options(grid):
    """Return the options of the compiler. The one for registers exists for NVIDIA's GPUs only."""
    if grid.registers is None:
        return dict(num_warps=grid.warps)
    return dict(num_warps=grid.warps, maxnreg=grid.registers)


def _packed(walks):
    return sum(walk << 8 * k for k, walk in enumerate(walks))


class _Inputs:
    """Inputs in the layout that the kernels need, and the arguments that all kernels share."""

    def __init__(self, sources, delta, A, B, C, D, delta_bias, order, walks):
        self.sources = [channel_last(u) for u in sources]
        if any(u.stride() != self.sources[0].stride() for u in self.sources):
            self.sources = [u.contiguous() for u in self.sources]
        self.delta, self.B, self.C = channel_last(delta), channel_last(B), channel_last(C)
        scans = delta.shape[1]
        self.A = A.float().unflatten(0, (scans, -1)).transpose(1, 2).contiguous()
        self.D, self.delta_bias = (None if x is None else x.contiguous() for x in (D, delta_bias))
        self.order, self.walks = order, _packed(walks)
        self.walks_of_dy = _packed([walk & ~3 for walk in walks])  # the gradient of y is the only source
        for name, x in (('maps', self.sources[0]), ('delta', self.delta), ('B', self.B), ('C', self.C)):
            check_offsets(name, x)

    def pointers(self, x, sources=None):
        """Return four sources and then ``x``: with fewer sources the last one is repeated."""
        sources = sources or self.sources
        return *(sources[min(i, len(sources) - 1)] for i in range(4)), *x

    @property
    def u_strides(self):
        u = self.sources[0]
        return u.stride(0), u.stride(1) if u.shape[1] > 1 else 0, u.stride(2)

    def constants(self, grid, delta_softplus):
        """Return the compile-time arguments that every walk over the tokens takes, and its number of warps."""
        return dict(
            N=grid.states,
            T=T,
            SOFTPLUS=delta_softplus,
            HAS_BIAS=self.delta_bias is not None,
            HAS_ORDER=self.order is not None,
            **compiler_options(grid),
        )

    @property
    def order_strides(self):
        if self.order is None:
            return 0, 0
        return self.order.stride(0), self.order.stride(1) if self.order.shape[1] > 1 else 0


def _strides(x):
    return x.stride()[:3]


def _carries(grid, inputs, sources, u_strides, W, delta_softplus, adjoint):
    """Return the state that reaches each chunk, (B, K, chunks, N, C).

    With ``adjoint`` it is the gradient of the state, which reaches a chunk from the chunks after it.
    """
    x = inputs
    shape = (grid.batch, grid.scans, grid.chunks, grid.states, grid.channels)
    ends = x.delta.new_empty(shape, dtype=torch.float32)
    delta_sums = ends.new_empty(grid.batch, grid.scans, grid.chunks, grid.channels)
    chunk_ends[grid()](
        *x.pointers((x.delta, x.A, W, x.delta_bias, x.order, ends, delta_sums), sources),
        *(x.walks_of_dy if adjoint else x.walks, *grid.sizes),
        *(*u_strides, *_strides(x.delta), *_strides(W), *x.order_strides),
        N_PADDED=grid.states_padded,
        C_BLOCK=grid.block,
        ADJOINT=adjoint,
        **x.constants(grid, delta_softplus),
    )
    pass_carries[grid(chunks=1)](
        *(ends, delta_sums, x.A, grid.scans, grid.chunks, grid.channels),
        N=grid.states,
        N_PADDED=grid.states_padded,
        C_BLOCK=grid.block,
        ADJOINT=adjoint,
        **compiler_options(grid),
    )
    return ends


def launch_forward(sources, delta, A, B, C, D, delta_bias, order, walks, delta_softplus, chunk_length, save_states):
    """Return y and the states at checkpoints; arguments as in the schema of the operator."""
    options = scan_options()
    grid = _grid(delta, A, chunk_length, options.forward_block, options.forward_registers)
    y, states = layout.empty_results(sources, delta, A, save_states)
    x = _Inputs(sources, delta, A, B, C, D, delta_bias, order, walks)
    check_offsets('y', y)
    if save_states:
        check_offsets('states at checkpoints', states.flatten(3))
    with torch.cuda.device_of(y):
        starts = None
        if grid.chunks > 1:
            starts = _carries(grid, x, None, x.u_strides, x.B, delta_softplus, adjoint=False)
        scan_forward[grid()](
            *x.pointers((x.delta, x.A, x.B, x.C, x.D, x.delta_bias, x.order, starts, y, states)),
            *(x.walks, *grid.sizes),
            *(*x.u_strides, *_strides(x.delta), *_strides(x.B), *_strides(x.C), *x.order_strides),
            N_PADDED=grid.states_padded,
            C_BLOCK=grid.block,
            CHECKPOINT=layout.CHECKPOINT,
            HAS_D=x.D is not None,
            HAS_STARTS=starts is not None,
            SAVE_STATES=save_states,
            CARRY_FLOAT32=options.float32_carry,
            **x.constants(grid, delta_softplus),
        )
    return y, states


def launch_backward(dy, states, sources, delta, A, B, C, D, delta_bias, order, walks, delta_softplus, chunk_length):
    """Return the gradients of u for each scan (B, K, L, C), and of delta, A, B, C, D and delta_bias.

    The layout is that of :func:`.layout.empty_gradients`. Sums over programs (over images for A, D and the bias, over
    blocks of channels for B and C) are written in parts and added up here. There are no atomics, so every run gives the
    same bits.
    """
    options = scan_options()
    grid = _grid(delta, A, chunk_length, options.backward_block, options.backward_registers)
    x = _Inputs(sources, delta, A, B, C, D, delta_bias, order, walks)
    dy = channel_last(dy)
    check_offsets('the gradient of y', dy)

    def parts(*shape):
        return delta.new_empty(shape, dtype=torch.float32)

    du, ddelta = sources[0].new_empty(delta.shape), delta.new_empty(delta.shape)
    batch_scans = (grid.batch, grid.scans)
    dA = parts(*batch_scans, grid.chunks, grid.states, grid.channels)
    dD, dbias = (None if p is None else parts(*batch_scans, grid.chunks, grid.channels) for p in (D, delta_bias))
    dB, dC = (parts(*batch_scans, grid.blocks, grid.length, grid.states) for _ in range(2))
    tiles = triton.cdiv(min(layout.CHECKPOINT, grid.length), T)
    scratch = parts(grid.programs, tiles, grid.states_padded, grid.block)
    with torch.cuda.device_of(du):
        after = None
        if grid.chunks > 1:
            after = _carries(grid, x, [dy], _strides(dy), x.C, delta_softplus, adjoint=True)
        scan_backward[grid()](
            *x.pointers((x.delta, x.A, x.B, x.C, x.D, x.delta_bias, x.order, dy, states, scratch, after)),
            *(du, ddelta, dA, dB, dC, dD, dbias, x.walks, *grid.sizes),
            *(*x.u_strides, *_strides(x.delta), *_strides(x.B), *_strides(x.C), *_strides(dy), *x.order_strides),
            N_HIGH=grid.states_padded // N_LOW,
            N_LOW=N_LOW,
            C_HIGH=grid.block // C_LOW,
            C_LOW=C_LOW,
            TILES=tiles,
            CHECKPOINT=layout.CHECKPOINT,
            HAS_D=x.D is not None,
            HAS_AFTER=after is not None,
            **x.constants(grid, delta_softplus),
        )
    sums = [(dA.sum((0, 2)).transpose(1, 2), A), (dB.sum(2), B), (dC.sum(2), C)]
    sums += [(None if p is None else p.sum((0, 2)), of) for p, of in ((dD, D), (dbias, delta_bias))]
    return du, ddelta, *(delta.new_empty(0) if total is None else layout.row_major(total, of) for total, of in sums)
