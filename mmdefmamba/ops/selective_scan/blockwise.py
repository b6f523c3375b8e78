"""Selective scan in blocks of tokens: plain PyTorch vector operations with a backward of their own; the CPU default.

Within a block everything that does not depend on the state is computed for all its tokens at once; the recurrence
is then one fused multiply-add a token. The forward keeps only the state at the start of each block; the backward
recomputes a block from there. Working memory is a few blocks, whatever the length.
"""

import math

import torch
import torch.nn.functional as F

from ..precision import at_least_float32

# Elements of one work buffer (tokens x rows x states x channels) that stay in a core's cache; measured, see
# benchmarks/selective_scan.py.
BLOCK_ELEMENTS = 1 << 19
# Elements of one token's state up to which it pays to scan several images and groups side by side; beyond it they
# are scanned one after another.
STATE_ELEMENTS = 1 << 16
MAX_BLOCK_TOKENS = 64


def selective_scan_blockwise(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """Selective scan in blocks; arguments as in :func:`..interface.selective_scan`, checked there."""
    return _BlockwiseScan.apply(u, delta, A, B, C, D, delta_bias, delta_softplus)


class _Problem:
    """The inputs of one scan, cut into parts of images and groups, and each part into blocks of tokens.

    Shapes: b images and k groups of a part, d channels of a group, n states, l length, t tokens of a block. Inside
    a block the token comes first and the channel last, (t, b, k, n, d), whatever the strides outside.
    """

    def __init__(self, u, delta, A, B, C, D, delta_bias, delta_softplus):
        groups = B.shape[1]
        self.length = u.shape[-1]
        self.dtype = torch.promote_types(u.dtype, torch.float32)
        self.u, self.delta = (self._grouped(x, groups) for x in (u, delta))
        self.B, self.C = B, C
        self.A_knd = at_least_float32(A).unflatten(0, (groups, -1)).transpose(1, 2).contiguous()
        # exp(delta * A) = exp2(delta * A * log2(e)): exp2 takes half the time of exp on a CPU
        self.A_log2e_knd = self.A_knd * math.log2(math.e)
        self.D = None if D is None else at_least_float32(D).unflatten(0, (groups, -1))
        self.bias = None if delta_bias is None else at_least_float32(delta_bias).unflatten(0, (groups, -1))
        self.delta_softplus = delta_softplus

    @staticmethod
    def _grouped(x, groups):
        return x.unflatten(1, (groups, -1))

    def parts(self):
        """Slices of images and groups that are scanned side by side, with their block length in tokens."""
        batch, groups, channels, _ = self.u.shape
        row = self.A_knd.shape[1] * channels
        rows = max(1, STATE_ELEMENTS // row)
        images, groups_at_once = (max(1, rows // groups), groups) if rows >= groups else (1, rows)
        for b in range(0, batch, images):
            for k in range(0, groups, groups_at_once):
                bs, ks = slice(b, min(b + images, batch)), slice(k, min(k + groups_at_once, groups))
                state = (bs.stop - bs.start) * (ks.stop - ks.start) * row
                yield bs, ks, min(self.length, MAX_BLOCK_TOKENS, max(1, BLOCK_ELEMENTS // state))

    def token_first(self, x, bs, ks, ts):
        """(b, k, d or n, l) -> (t, b, k, d or n), contiguous, at least float32."""
        return x[bs, ks, :, ts].permute(3, 0, 1, 2).to(self.dtype, memory_format=torch.contiguous_format)

    def time_step(self, bs, ks, ts):
        """delta of a block after bias and softplus, and the derivative of that, (t, b, k, d)."""
        raw = self.token_first(self.delta, bs, ks, ts)
        if self.bias is not None:
            raw = raw + self.bias[ks]
        return (F.softplus(raw), raw) if self.delta_softplus else (raw, raw)


def _advance(decay, x, state):
    """Turn x_t into h_t = decay_t * h_{t-1} + x_t in place, token after token; returns the last state."""
    for decay_t, x_t in zip(decay.unbind(0), x.unbind(0), strict=True):
        state = x_t.addcmul_(decay_t, state)
    return state


class _BlockwiseScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, delta_bias, delta_softplus):
        p = _Problem(u, delta, A, B, C, D, delta_bias, delta_softplus)
        batch, groups, channels, length = p.u.shape
        states = A.shape[1]
        keep_states = any(ctx.needs_input_grad)
        # stored as (l, b, k, d): rows of channels are written whole, and callers that work channel-last read them so
        y = torch.empty(batch, length, groups * channels, dtype=u.dtype, device=u.device).transpose(1, 2)
        y_bkdl = p._grouped(y, groups)
        starts = []
        for bs, ks, tokens in p.parts():
            A_log2e_knd = p.A_log2e_knd[ks]
            rows = (bs.stop - bs.start, ks.stop - ks.start)
            decay = torch.empty(tokens, *rows, states, channels, dtype=p.dtype, device=u.device)
            hidden = torch.empty_like(decay)
            y_block = torch.empty(tokens, *rows, 1, channels, dtype=p.dtype, device=u.device)
            state = decay.new_zeros(*rows, states, channels)
            part_starts = []
            for begin in range(0, length, tokens):
                ts = slice(begin, min(begin + tokens, length))
                size = ts.stop - begin
                u_t, B_t, C_t = (p.token_first(x, bs, ks, ts) for x in (p.u, p.B, p.C))
                delta_t, _ = p.time_step(bs, ks, ts)
                if keep_states:
                    part_starts.append(state.clone())
                torch.mul(delta_t.unsqueeze(-2), A_log2e_knd, out=decay[:size]).exp2_()
                torch.mul((delta_t * u_t).unsqueeze(-2), B_t.unsqueeze(-1), out=hidden[:size])
                # cloned: the buffer is overwritten by the next block
                state = _advance(decay[:size], hidden[:size], state).clone()
                torch.matmul(C_t.unsqueeze(-2), hidden[:size], out=y_block[:size])
                out = y_block[:size].squeeze(-2)
                if p.D is not None:
                    out.addcmul_(u_t, p.D[ks])
                y_bkdl[bs, ks, :, ts] = out.permute(1, 2, 3, 0)
            starts.append(part_starts)
        ctx.save_for_backward(u, delta, A, B, C, D, delta_bias)
        ctx.starts, ctx.delta_softplus = starts, delta_softplus
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_y):
        with torch.autocast(grad_y.device.type, enabled=False):
            return _backward(ctx, grad_y)


def _backward(ctx, grad_y):
    u, delta, A, B, C, D, delta_bias = ctx.saved_tensors
    p = _Problem(u, delta, A, B, C, D, delta_bias, ctx.delta_softplus)
    batch, groups, channels, length = p.u.shape
    states = A.shape[1]
    grad_y = p._grouped(grad_y, groups)

    def channel_last(x):
        return torch.empty(batch, length, x.shape[1], dtype=x.dtype, device=x.device).transpose(1, 2)

    grad_u, grad_delta = channel_last(u), channel_last(delta)
    grad_u_bkdl, grad_delta_bkdl = (p._grouped(x, groups) for x in (grad_u, grad_delta))
    grad_B, grad_C = (torch.empty_like(x) for x in (B, C))
    grad_A_knd = torch.zeros_like(p.A_knd)
    grad_D, grad_bias = (None if x is None else torch.zeros_like(x) for x in (p.D, p.bias))

    for (bs, ks, tokens), starts in zip(p.parts(), ctx.starts, strict=True):
        rows = (bs.stop - bs.start, ks.stop - ks.start)
        decay = torch.empty(tokens, *rows, states, channels, dtype=p.dtype, device=u.device)
        hidden, grad_hidden = torch.empty_like(decay), torch.empty_like(decay)
        # gradient of the state that reaches this block from the tokens after it
        grad_after = decay.new_zeros(*rows, states, channels)
        for begin, start in reversed(list(zip(range(0, length, tokens), starts, strict=True))):
            ts = slice(begin, min(begin + tokens, length))
            size = ts.stop - begin
            a, h, g = decay[:size], hidden[:size], grad_hidden[:size]
            u_t, B_t, C_t, dy_t = (p.token_first(x, bs, ks, ts) for x in (p.u, p.B, p.C, grad_y))
            delta_t, raw_t = p.time_step(bs, ks, ts)
            du_t = delta_t * u_t

            torch.mul(delta_t.unsqueeze(-2), p.A_log2e_knd[ks], out=a).exp2_()
            torch.mul(du_t.unsqueeze(-2), B_t.unsqueeze(-1), out=h)
            _advance(a, h, start)

            # g_t = dL/dh_t = C_t dy_t + decay_{t+1} g_{t+1}
            torch.mul(dy_t.unsqueeze(-2), C_t.unsqueeze(-1), out=g)
            g_t, a_t = g.unbind(0), a.unbind(0)
            g_t[-1].add_(grad_after)
            for t in range(size - 2, -1, -1):
                g_t[t].addcmul_(a_t[t + 1], g_t[t + 1])
            grad_after = a_t[0] * g_t[0]

            grad_C[bs, ks, :, ts] = torch.matmul(h, dy_t.unsqueeze(-1)).squeeze(-1).permute(1, 2, 3, 0)
            grad_B[bs, ks, :, ts] = torch.matmul(g, du_t.unsqueeze(-1)).squeeze(-1).permute(1, 2, 3, 0)
            grad_du = torch.matmul(B_t.unsqueeze(-2), g).squeeze(-2)

            # gradient of the exponent delta_t * A: g_t * decay_t * h_{t-1}
            exponent = a.mul_(g)
            exponent[1:].mul_(h[:-1])
            exponent[0].mul_(start)
            torch.mul(exponent, delta_t.unsqueeze(-2), out=g)
            grad_A_knd[ks] += g.sum((0, 1))
            grad_delta_t = exponent.mul_(p.A_knd[ks]).sum(-2).addcmul_(grad_du, u_t)
            if ctx.delta_softplus:
                grad_delta_t.mul_(torch.sigmoid(raw_t))
            grad_u_t = grad_du.mul_(delta_t)
            if p.D is not None:
                grad_u_t.addcmul_(dy_t, p.D[ks])
                grad_D[ks] += (dy_t * u_t).sum((0, 1))
            if p.bias is not None:
                grad_bias[ks] += grad_delta_t.sum((0, 1))
            grad_u_bkdl[bs, ks, :, ts] = grad_u_t.permute(1, 2, 3, 0)
            grad_delta_bkdl[bs, ks, :, ts] = grad_delta_t.permute(1, 2, 3, 0)

    grad_A = grad_A_knd.transpose(1, 2).flatten(0, 1).to(A.dtype)
    grad_D = None if D is None else grad_D.flatten().to(D.dtype)
    grad_bias = None if delta_bias is None else grad_bias.flatten().to(delta_bias.dtype)
    return grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias, None
