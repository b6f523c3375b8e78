"""The blockwise backend, the default on a CPU: PyTorch operations on blocks of tokens, with a backward of its own.

Within a block, everything that does not depend on the state is computed for all tokens at once. The recurrence is then
one fused multiply-add per token. The forward keeps only the state at the start of each block, and the backward
recomputes a block from there. Working memory is a few blocks, whatever the length.

Each operation is a parallel region of its own, hundreds of them per scan. On a machine whose cores have other work,
threads wait for each other at the end of each, and a scan takes ten times as long with two threads as with one.
"""

import contextlib
import itertools
import logging
import math
import os

import torch
import torch.nn.functional as F

from ..precision import at_least_float32, without_autocast

# Elements of one work buffer (tokens x rows x states x channels), so that it stays in the cache of a core. Measured
# with benchmarks/selective_scan.py.
BLOCK_ELEMENTS = 1 << 19
# Elements of one token's state up to which several images and groups are scanned side by side. PyTorch runs operations
# on fewer than 2^15 elements in one thread: a parallel region per token would cost more than it saves.
STATE_ELEMENTS = (1 << 15) - 1
MAX_BLOCK_TOKENS = 64
# Processes that want to run, per core, above which a scan takes one thread.
BUSY_LOAD = 1.25
_logger = logging.getLogger('mmdefmamba')
_logged = set()


@contextlib.contextmanager
def _threads_that_pay():
    """Within the block: PyTorch's threads, or one thread on a busy machine. The number changes no bit of a result."""
    threads = torch.get_num_threads()
    if threads == 1 or torch.compiler.is_compiling() or not _is_busy():
        yield
        return
    if 'busy' not in _logged:
        _logged.add('busy')
        _logger.info('selective_scan: blockwise takes 1 of %d threads while other processes use the cores', threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _is_busy():
    return hasattr(os, 'getloadavg') and os.getloadavg()[0] > BUSY_LOAD * os.cpu_count()


def selective_scan_blockwise(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """Run a selective scan in blocks; arguments as of :func:`.interface.selective_scan`, checked there."""
    with _threads_that_pay():
        return _BlockwiseScan.apply(u, delta, A, B, C, D, delta_bias, delta_softplus)


class _Problem:
    """The inputs of one scan, cut into parts (some images and groups), and each part into blocks of tokens.

    Shapes: b images and k groups of a part, d channels of a group, n states, l length, t tokens of a block. Inside a
    block the channel is the last dimension, (b, t, k, n, d), whatever the strides outside. Inputs that are stored
    channel-last are read where they lie.
    """

    def __init__(self, u, delta, A, B, C, D, delta_bias, delta_softplus):
        self.groups = B.shape[1]
        self.length = u.shape[-1]
        self.dtype = torch.promote_types(u.dtype, torch.float32)
        self.u, self.delta = self.grouped(u), self.grouped(delta)
        self.B, self.C = (x.permute(0, 3, 1, 2) for x in (B, C))  # (b, l, k, n)
        self.A = at_least_float32(A).unflatten(0, (self.groups, -1)).transpose(1, 2).contiguous()  # (k, n, d)
        # exp(delta * A) = exp2(delta * A * log2(e)), and exp2 takes half the time of exp on a CPU
        self.A_log2e = self.A * math.log2(math.e)
        self.D, self.bias = (
            None if x is None else at_least_float32(x).unflatten(0, (self.groups, -1)) for x in (D, delta_bias)
        )
        self.delta_softplus = delta_softplus

    def grouped(self, x):
        """Return a view: (b, k*d, l) -> (b, l, k, d)."""
        return x.transpose(1, 2).unflatten(2, (self.groups, -1))

    def parts(self):
        """Yield slices of images and of groups that are scanned side by side, and the block length in tokens."""
        batch, _, groups, channels = self.u.shape
        row = self.A.shape[1] * channels
        rows = max(1, STATE_ELEMENTS // row)
        images, groups_at_once = (rows // groups, groups) if rows >= groups else (1, rows)
        for b in range(0, batch, images):
            for k in range(0, groups, groups_at_once):
                bs, ks = slice(b, min(b + images, batch)), slice(k, min(k + groups_at_once, groups))
                state = (bs.stop - bs.start) * (ks.stop - ks.start) * row
                yield bs, ks, min(self.length, MAX_BLOCK_TOKENS, max(1, BLOCK_ELEMENTS // state))

    def block(self, x, bs, ks, ts):
        """Return the part of an input (b, l, k, d or n) that belongs to a block, in float32 or wider."""
        return x[bs, ts, ks].to(self.dtype)

    def time_step(self, bs, ks, ts):
        """Return delta of a block with bias, after the softplus and before it, (b, t, k, d) each."""
        raw = self.block(self.delta, bs, ks, ts)
        if self.bias is not None:
            raw = raw + self.bias[ks]
        return (F.softplus(raw) if self.delta_softplus else raw), raw

    def buffer(self, bs, ks, tokens, states=None):
        """Return an uninitialised work buffer, (b, t, k, n, d)."""
        shape = (bs.stop - bs.start, tokens, ks.stop - ks.start, states or self.A.shape[1], self.A.shape[2])
        return self.u.new_empty(shape, dtype=self.dtype)


class _Recurrence:
    """Work buffers for the decays and states of one block. The view of each token is made once."""

    def __init__(self, problem, bs, ks, tokens):
        self.decay = problem.buffer(bs, ks, tokens)
        self.hidden = torch.empty_like(self.decay)
        self.A_log2e = problem.A_log2e[ks]
        self.decay_t, self.hidden_t = self.decay.unbind(1), self.hidden.unbind(1)

    def run(self, delta, delta_u, B, state):
        """Fill the buffers for one block that starts from ``state``, and return them cut to its length."""
        size = delta.shape[1]
        decay, hidden = self.decay[:, :size], self.hidden[:, :size]
        torch.mul(delta.unsqueeze(-2), self.A_log2e, out=decay).exp2_()
        torch.mul(delta_u.unsqueeze(-2), B.unsqueeze(-1), out=hidden)
        for decay_t, hidden_t in zip(self.decay_t[:size], self.hidden_t, strict=False):
            state = hidden_t.addcmul_(decay_t, state)
        return decay, hidden


def _blocks(length, tokens):
    return [slice(begin, min(begin + tokens, length)) for begin in range(0, length, tokens)]


def _empty_channel_last(like):
    """Return an empty tensor (b, channels, l) that is stored as (b, l, channels), as it is written and read."""
    return like.new_empty(like.shape[0], like.shape[2], like.shape[1]).transpose(1, 2)


class _BlockwiseScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, delta_bias, delta_softplus):
        p = _Problem(u, delta, A, B, C, D, delta_bias, delta_softplus)
        keep_states = any(ctx.needs_input_grad)
        y = _empty_channel_last(u)
        y_grouped = p.grouped(y)
        starts = []
        for bs, ks, tokens in p.parts():
            recurrence = _Recurrence(p, bs, ks, tokens)
            y_buffer = p.buffer(bs, ks, tokens, states=1)
            state = torch.zeros_like(recurrence.hidden_t[0])
            for ts in _blocks(p.length, tokens):
                u_t, B_t, C_t = (p.block(x, bs, ks, ts) for x in (p.u, p.B, p.C))
                delta_t, _ = p.time_step(bs, ks, ts)
                if keep_states:
                    starts.append(state)
                _, hidden = recurrence.run(delta_t, delta_t * u_t, B_t, state)
                state = hidden[:, -1].clone()  # a copy: the next block overwrites the buffer
                y_t = torch.matmul(C_t.unsqueeze(-2), hidden, out=y_buffer[:, : hidden.shape[1]]).squeeze(-2)
                if p.D is not None:
                    y_t.addcmul_(u_t, p.D[ks])
                y_grouped[bs, ts, ks] = y_t
        # The states go through save_for_backward as well: only then can activation checkpointing drop them.
        ctx.save_for_backward(u, delta, A, B, C, D, delta_bias, *starts)
        ctx.delta_softplus = delta_softplus
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_y):
        with without_autocast(grad_y.device.type), _threads_that_pay():
            return _backward(ctx, grad_y)


def _backward(ctx, grad_y):
    u, delta, A, B, C, D, delta_bias, *starts = ctx.saved_tensors
    p = _Problem(u, delta, A, B, C, D, delta_bias, ctx.delta_softplus)
    grad_y = p.grouped(grad_y)
    grad_u, grad_delta = _empty_channel_last(u), _empty_channel_last(delta)
    grad_u_grouped, grad_delta_grouped = p.grouped(grad_u), p.grouped(grad_delta)
    grad_B, grad_C = torch.empty_like(p.B), torch.empty_like(p.C)
    grad_A = torch.zeros_like(p.A)
    grad_D, grad_bias = (None if x is None else torch.zeros_like(x) for x in (p.D, p.bias))

    starts = iter(starts)
    for bs, ks, tokens in p.parts():
        recurrence = _Recurrence(p, bs, ks, tokens)
        g_buffer = torch.empty_like(recurrence.hidden)
        g_tokens = g_buffer.unbind(1)
        # gradient of the state after this block, from the tokens that follow
        g_after = torch.zeros_like(g_tokens[0])
        blocks = _blocks(p.length, tokens)
        starts_of_part = list(itertools.islice(starts, len(blocks)))
        for ts, start in zip(reversed(blocks), reversed(starts_of_part), strict=True):
            u_t, B_t, C_t, dy_t = (p.block(x, bs, ks, ts) for x in (p.u, p.B, p.C, grad_y))
            delta_t, raw_t = p.time_step(bs, ks, ts)
            delta_u = delta_t * u_t
            decay, hidden = recurrence.run(delta_t, delta_u, B_t, start)
            size = hidden.shape[1]
            g = g_buffer[:, :size]

            # g_t = dL/dh_t = C_t dy_t + decay_{t+1} g_{t+1}
            torch.mul(dy_t.unsqueeze(-2), C_t.unsqueeze(-1), out=g)
            g_tokens[size - 1].add_(g_after)
            for t in range(size - 2, -1, -1):
                g_tokens[t].addcmul_(recurrence.decay_t[t + 1], g_tokens[t + 1])
            g_after = recurrence.decay_t[0] * g_tokens[0]

            grad_C[bs, ts, ks] = torch.matmul(hidden, dy_t.unsqueeze(-1)).squeeze(-1)
            grad_B[bs, ts, ks] = torch.matmul(g, delta_u.unsqueeze(-1)).squeeze(-1)
            grad_delta_u = torch.matmul(B_t.unsqueeze(-2), g).squeeze(-2)

            # gradient of the exponent delta_t * A: g_t * decay_t * h_{t-1}
            exponent = decay.mul_(g)
            exponent[:, 1:].mul_(hidden[:, :-1])
            exponent[:, 0].mul_(start)
            grad_A[ks] += torch.mul(exponent, delta_t.unsqueeze(-2), out=g).sum((0, 1))
            grad_delta_t = exponent.mul_(p.A[ks]).sum(-2).addcmul_(grad_delta_u, u_t)
            if ctx.delta_softplus:
                # Not sigmoid(raw): above its threshold of 20, softplus is the identity in PyTorch and in mamba-ssm.
                grad_delta_t = torch.ops.aten.softplus_backward(grad_delta_t, raw_t, 1, 20)
            grad_u_t = grad_delta_u.mul_(delta_t)
            if p.D is not None:
                grad_u_t.addcmul_(dy_t, p.D[ks])
                grad_D[ks] += (dy_t * u_t).sum((0, 1))
            if p.bias is not None:
                grad_bias[ks] += grad_delta_t.sum((0, 1))
            grad_u_grouped[bs, ts, ks] = grad_u_t
            grad_delta_grouped[bs, ts, ks] = grad_delta_t

    return (
        grad_u,
        grad_delta,
        grad_A.transpose(1, 2).flatten(0, 1).to(A.dtype),
        grad_B.permute(0, 2, 3, 1),
        grad_C.permute(0, 2, 3, 1),
        None if D is None else grad_D.flatten().to(D.dtype),
        None if delta_bias is None else grad_bias.flatten().to(delta_bias.dtype),
        None,
    )
