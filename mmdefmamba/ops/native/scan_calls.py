"""Fill the struct of a scan, run its kernels, and make the tensors of their results. Arguments are checked by callers.

All tensors are float32 on the CPU. Shapes as in :mod:`.scan_op`: B images, K scans, L tokens, C channels, N states,
R the rank of the time step.
"""

import ctypes
import math

import torch
import torch.nn.functional as F

from ..tensors import channel_last
from . import library
from .structs import Call, Rows, Scan

MAX_VECTORS = 16  # of channels that one task walks through side by side: their states stay in the cache of a core
MAX_STATE_VECTORS = 1024  # a limit of the same kind for many states
TASKS_PER_THREAD = 4  # so that threads end at about the same time

# Bits of a walk, one integer per scan: bits 0 to 15 are the index of its map among the sources, bit 16 is set if it
# runs backwards, and the bits from 17 on are 1 + its index among the orders, or 0 without an order.
BACKWARDS = 1 << 16
ORDER_SHIFT = 17


def rows(x):
    """Return the rows of a tensor (images, tokens, channels) with dense channels."""
    return Rows(x.data_ptr(), x.stride(0), x.stride(1))


def check_places(order, length):
    """Refuse places outside of a map: a kernel would read and write outside of its tensors.

    Raises:
        ValueError: names the smallest and the largest place.
    """
    low, high = (x.item() for x in order.aminmax())
    if low < 0 or high >= length:
        raise ValueError(f'an order must hold places from 0 to {length - 1}, got places from {low} to {high}')


class ScanCall:
    """The struct of one call, and the tensors whose addresses are in it.

    Args:
        sources: the distinct maps, each (B, L, C); or one tensor (B, K, L, C) with one map per scan.
        A: (K * C, N).
        B, C: (B, K, L, N), or K tensors (B, L, N).
        D, delta_bias: (K * C,), or None.
        orders: permutations, int64, each (L,) or (B, L).
        walks: K integers, see above.
        delta: (B, K, L, C), or None if the time step is projected.
        rank: K tensors (B, L, R), and ``rank_weight`` (K, C, R), from which the time step is projected.
        softplus: whether delta passes through a softplus.
        merge: whether one task runs all scans of its channels.
    """

    def __init__(self, sources, A, B, C, D, delta_bias, orders, walks, *, delta=None, rank=None, rank_weight=None,
                 softplus=True, merge=False):  # fmt: skip
        self.library = library.LIBRARY
        first = sources[0]
        images, length, channels = first.shape[0], first.shape[-2], first.shape[-1]
        scans, states = len(walks), A.shape[1]
        self.shape = images, scans, length, channels
        lanes = self.library.lanes
        self.states, self.padded_states = states, library.padded_states(states)
        self.vectors = -(-channels // lanes)
        self.vectors_per_group = self._vectors_per_group(images if merge else images * scans)
        self.groups = -(-self.vectors // self.vectors_per_group)
        self.tasks = self.groups * (images if merge else images * scans)

        self.structs = (Scan * scans)()
        rank_size = 0 if delta is not None else rank_weight.shape[-1]
        self.call = Call(
            *(images, scans, length, channels, states, self.padded_states, rank_size),
            *(self.vectors_per_group, softplus, merge, ctypes.addressof(self.structs)),
        )
        self.kept = []
        decay = A.unflatten(0, (scans, channels)).transpose(1, 2) * math.log2(math.e)
        decay = self.keep(F.pad(decay, (0, 0, 0, self.padded_states - states)).contiguous())
        zeros = first.new_zeros(scans * channels)
        D, delta_bias = (self.keep(zeros if x is None else x.contiguous()) for x in (D, delta_bias))
        if delta is None:
            rank_weight = self.keep(rank_weight.transpose(1, 2).contiguous())
        for k, (struct, walk) in enumerate(zip(self.structs, walks, strict=True)):
            struct.u = self.rows(first[:, k] if first.ndim == 4 else sources[walk % BACKWARDS])
            struct.B, struct.C = (self.rows(x[:, k] if isinstance(x, torch.Tensor) else x[k]) for x in (B, C))
            struct.A = decay[k].data_ptr()
            struct.D, struct.bias = (x[k * channels :].data_ptr() for x in (D, delta_bias))
            if delta is not None:
                struct.delta = self.rows(delta[:, k])
            else:
                struct.rank, struct.rank_weight = self.rows(rank[k]), rank_weight[k].data_ptr()
            struct.backwards = bool(walk & BACKWARDS)
            if walk >> ORDER_SHIFT:
                order = self.keep(orders[(walk >> ORDER_SHIFT) - 1].long().contiguous())
                check_places(order, length)
                struct.order, struct.order_image = order.data_ptr(), length if order.ndim == 2 and len(order) > 1 else 0

    def _vectors_per_group(self, sequences):
        """Return how many vectors a task takes: few enough that all threads have tasks, else as many as the cache."""
        most = max(1, min(MAX_VECTORS, MAX_STATE_VECTORS // self.padded_states))
        groups = max(-(-self.vectors // most), -(-TASKS_PER_THREAD * library.threads() // sequences))
        return -(-self.vectors // min(self.vectors, groups))

    def keep(self, x):
        """Keep a tensor alive as long as the call, and return it."""
        self.kept.append(x)
        return x

    def rows(self, x):
        """Return the rows of (B, L, X), copied if its last dimension is not dense."""
        return rows(self.keep(channel_last(x)))

    def run(self, kernel):
        self.library.run(kernel, self.call, self.tasks)

    def states_shape(self):
        """Return the shape of the states that the backward starts from: before each block of tokens."""
        return library.states_shape(self.shape, self.states)

    def run_backward(self):
        """Run the backward, and return the gradients that it sums.

        Returns:
            dA (K * C, N), dB and dC (K, B, L, N), dD and dbias (K * C,).
        """
        images, scans, length, channels = self.shape
        empty, padded = self.kept[0].new_empty, self.padded_states
        dA = empty(scans, images, padded, channels)
        dB, dC = (empty(scans, self.groups, images, length, padded) for _ in range(2))
        dD, dbias = (empty(scans, images, channels) for _ in range(2))
        for k, scan in enumerate(self.structs):
            for name, x in (('dA', dA), ('dB', dB), ('dC', dC), ('dD', dD), ('dbias', dbias)):
                setattr(scan, name, x[k].data_ptr())
        self.run('scan_backward')
        dA = dA.sum(1).transpose(1, 2).flatten(0, 1)[:, : self.states].contiguous()
        dB, dC = ((x.sum(1) if self.groups > 1 else x[:, 0])[..., : self.states] for x in (dB, dC))
        return dA, dB, dC, dD.sum(1).flatten(), dbias.sum(1).flatten()
