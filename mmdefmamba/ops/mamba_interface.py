"""The functions of ``mamba_ssm.ops.selective_scan_interface`` with their names and arguments, on every backend.

Code that was written for mamba-ssm runs with them on a CPU and without a compiled CUDA kernel. The backend is the one
that ``backend='auto'`` takes; :func:`~mmdefmamba.ops.use_backend` chooses another.
"""

import math

import torch
import torch.nn.functional as F

from .precision import at_least_float32, saturate
from .sequence_scan import selective_scan

# Time step before the softplus of a token that leaves the state as it is: softplus gives exactly 0.
STILL = -1e4


def selective_scan_fn(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):
    """Run a selective scan; arguments and results are those of mamba-ssm's function of this name.

    Per channel d, with a state h of n numbers that starts at zero, see :func:`selective_scan`::

        h_t = exp(delta_t * A_d) * h_{t-1} + delta_t * B_t * u_t
        y_t = (<C_t, h_t> + D_d * u_t) * silu(z_t)

    State and exponentials are computed in float32 or wider, under autocast too.

    Args:
        u: input, (b, d, l), any floating dtype, any strides.
        delta: time step, like ``u``.
        A: decay rates, negative, (d, n), real.
        B: input weights: constant (d, n), per token (b, n, l), or per token for g groups of d / g channels
            (b, g, n, l). With constant weights each channel is a group of its own, which takes more time and memory.
        C: output weights, in one of the same three forms, which need not be that of ``B``.
        D: weight of the skip, (d,), or None.
        z: gate, (b, d, l), or None.
        delta_bias: added to ``delta``, (d,), or None.
        delta_softplus: whether delta passes through a softplus, after the bias.
        return_last_state: also return the state after the last token. It costs n more tokens.

    Returns:
        y, (b, d, l), dtype of ``u``; in float16 an overflow becomes 65504, not infinity. With ``return_last_state``
        (y, last state), the state (b, d, n) in float32, or in float64 for float64 inputs. The state has a gradient.
        mamba-ssm ignores that gradient without a message.

    Raises:
        ValueError: the shapes do not fit each other.
        TypeError: a tensor is complex or has integers; or B, C, delta or z is float64 and ``u`` is not, or the reverse.

    Source: Mamba (Gu and Dao, 2023), algorithm 2.
    """
    return _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, 'auto')


def selective_scan_ref(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):
    """Do what :func:`selective_scan_fn` does on the backend 'reference': token by token, slowly, for comparisons."""
    return _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, 'reference')


def _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, backend):
    _check(u, A, B, C, z, dict(delta=delta, D=D, delta_bias=delta_bias))
    dtype, length = u.dtype, u.shape[-1]
    # mamba-ssm wants parameters in float32, whatever the dtype of u
    A, D, delta_bias = (None if x is None else x.to(torch.promote_types(x.dtype, dtype)) for x in (A, D, delta_bias))
    groups = math.lcm(*(_groups(x, u) for x in (B, C)))
    B, C = (_per_token(x.to(u.dtype) if x.ndim == 2 else x, u, groups) for x in (B, C))
    if z is not None or return_last_state:
        u = at_least_float32(u)  # what follows the scan is rounded once
    if return_last_state:
        u, delta, B, C, delta_bias = _read_last_state(u, delta, B, C, delta_bias, delta_softplus, A.shape[1])
    y = selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus=bool(delta_softplus), backend=backend)
    y, last_state = (y[..., :length], y[..., length:]) if return_last_state else (y, None)
    if z is not None:
        y = y * F.silu(z.to(y.dtype))
    y = saturate(y.to(dtype))
    return (y, last_state) if return_last_state else y


def _read_last_state(u, delta, B, C, delta_bias, delta_softplus, states):
    """Append one token per state, which changes no state and reads one: y ends with the last state.

    So every backend gives it, with its gradient. The appended tokens have u = B = 0 and a time step of exactly 0.
    """
    delta = at_least_float32(delta)
    if delta_softplus:
        still = STILL
        if delta_bias is not None:  # far below 0 whatever the bias
            still = (STILL - delta_bias.detach().to(delta.dtype)).unsqueeze(-1).expand(len(u), -1, states)
    else:
        # without the slope of a softplus, which is 0 there, the bias would get a gradient from the appended tokens
        delta = delta if delta_bias is None else delta + delta_bias.to(delta.dtype).unsqueeze(-1)
        still, delta_bias = 0.0, None
    still = still if isinstance(still, torch.Tensor) else delta.new_full((*delta.shape[:2], states), still)
    read = torch.eye(states, dtype=C.dtype, device=C.device).expand(*C.shape[:2], -1, -1)
    pad = (0, states)
    return F.pad(u, pad), torch.cat([delta, still], dim=-1), F.pad(B, pad), torch.cat([C, read], dim=-1), delta_bias


def _groups(x, u):
    """Return the number of groups of channels that read weights B or C of their own."""
    return u.shape[1] if x.ndim == 2 else 1 if x.ndim == 3 else x.shape[1]


def _per_token(x, u, groups):
    """Return B or C as (b, groups, n, l): a view, unless x has fewer groups, but more than one token."""
    batch, _, length = u.shape
    if x.ndim == 2:
        return x[None, :, :, None].expand(batch, -1, -1, length)
    x = x.unsqueeze(1) if x.ndim == 3 else x
    if x.shape[1] == groups:
        return x
    return x.unsqueeze(2).expand(-1, -1, groups // x.shape[1], -1, -1).flatten(1, 2)


def _check(u, A, B, C, z, others):
    tensors = {'u': u, 'A': A, 'B': B, 'C': C, 'z': z, **others}
    for name, x in tensors.items():
        if x is not None and x.is_complex():
            raise TypeError(
                f'{name} is complex ({x.dtype}), and mmdefmamba scans real numbers alone: build the model with a real '
                'A, as Mamba and all vision backbones have it'
            )
    if u.ndim != 3 or A.ndim != 2:
        raise ValueError(f'u must be (b, d, l) and A (d, n), got {tuple(u.shape)} and {tuple(A.shape)}')
    batch, channels, length = u.shape
    states = A.shape[1]
    for name, x in (('B', B), ('C', C)):
        forms = {2: (channels, states), 3: (batch, states, length)}
        if x.ndim == 4 and x.shape[1] and channels % x.shape[1] == 0:
            forms[4] = (batch, x.shape[1], states, length)
        if tuple(x.shape) != forms.get(x.ndim):
            raise ValueError(
                f'{name} must be (d, n) = {forms[2]}, (b, n, l) = {forms[3]} or (b, g, n, l) with g groups that divide '
                f'd = {channels}, got {tuple(x.shape)}'
            )
    if z is not None and z.shape != u.shape:
        raise ValueError(f'z must have the shape of u {tuple(u.shape)}, got {tuple(z.shape)}')
    if z is not None and (z.device != u.device or not z.is_floating_point()):
        raise ValueError(f'z must be a floating point tensor on {u.device}, got {z.dtype} on {z.device}')


def mamba_inner_fn(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias, A, B=None, C=None,
    D=None, delta_bias=None, B_proj_bias=None, C_proj_bias=None, delta_softplus=True, checkpoint_lvl=1,
    b_rms_weight=None, c_rms_weight=None, dt_rms_weight=None, b_c_dt_rms_eps=1e-6,
):  # fmt: skip
    """Run what a Mamba block has between its first projection and its end: convolution, projections, scan, gate.

    Arguments as of mamba-ssm's function of this name.

    Args:
        xz: the projected input and its gate, (b, 2 * d, l).
        conv1d_weight: depthwise and causal, (d, 1, width); ``conv1d_bias`` (d,) or None.
        x_proj_weight: (r + 2 * n, d), with r the rank of the time step; without the rows of a constant B or C.
        delta_proj_weight: (d, r).
        out_proj_weight: (features, d); ``out_proj_bias`` (features,) or None.
        A, B, C, D, delta_bias, delta_softplus: as of :func:`selective_scan_fn`; B and C that are None are projected.
        B_proj_bias, C_proj_bias: (n,), or None.
        checkpoint_lvl: not used; autograd keeps what the backward needs.
        b_rms_weight, c_rms_weight: (n,), and ``dt_rms_weight``: (d,): normalise B, C and the time step, or None.
        b_c_dt_rms_eps: of these norms.

    Returns:
        (b, l, features).
    """
    norms = b_rms_weight, c_rms_weight, dt_rms_weight, b_c_dt_rms_eps
    x, z = xz.chunk(2, dim=1)
    inputs = _project(x, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A.shape[1], B, C, B_proj_bias,
                      C_proj_bias, norms)  # fmt: skip
    u, delta, B, C = inputs
    y = selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return F.linear(y.transpose(1, 2), out_proj_weight, out_proj_bias)


def mamba_inner_fn_no_out_proj(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B=None, C=None, D=None, delta_bias=None,
    B_proj_bias=None, C_proj_bias=None, delta_softplus=True, checkpoint_lvl=1,
):  # fmt: skip
    """Do what :func:`mamba_inner_fn` does without the last projection, as the mamba-ssm of Vim has it.

    Returns:
        (b, d, l).
    """
    x, z = xz.chunk(2, dim=1)
    u, delta, B, C = _project(x, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A.shape[1], B, C,
                              B_proj_bias, C_proj_bias)  # fmt: skip
    return selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus)


def bimamba_inner_fn(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias, A, A_b, B=None,
    C=None, D=None, delta_bias=None, B_proj_bias=None, C_proj_bias=None, delta_softplus=True, checkpoint_lvl=1,
):  # fmt: skip
    """Do what :func:`mamba_inner_fn` does with two scans that are added, as the mamba-ssm of Vim has it.

    The second scan walks from the last token to the first, with the decay rates ``A_b`` (d, n).

    Returns:
        (b, l, features).
    """
    x, z = xz.chunk(2, dim=1)
    u, delta, B, C = _project(x, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A.shape[1], B, C,
                              B_proj_bias, C_proj_bias)  # fmt: skip
    y = selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    u, delta, z, B, C = (x if x.ndim == 2 else x.flip(-1) for x in (u, delta, z, B, C))
    y = y + selective_scan_fn(u, delta, A_b, B, C, D, z, delta_bias, delta_softplus).flip(-1)
    return F.linear(y.transpose(1, 2), out_proj_weight, out_proj_bias)


def _project(x, conv_weight, conv_bias, x_weight, delta_weight, states, B, C, B_bias, C_bias, norms=(None,) * 4):
    """Return u and delta (b, d, l), B and C (b, n, l) or as they were given."""
    B_norm, C_norm, delta_norm, eps = norms
    rank = delta_weight.shape[1]
    x = F.silu(F.conv1d(F.pad(x, (conv_weight.shape[-1] - 1, 0)), conv_weight, conv_bias, groups=len(conv_weight)))
    projected = F.linear(x.transpose(1, 2), x_weight)
    delta = F.linear(projected[..., :rank], delta_weight)

    def weights(given, part, bias, norm):
        if given is not None:
            return given
        part = part if bias is None else part + bias.to(part.dtype)
        return (part if norm is None else F.rms_norm(part, norm.shape, norm.to(part.dtype), eps)).transpose(1, 2)

    B = weights(B, projected[..., rank : rank + states], B_bias, B_norm)
    C = weights(C, projected[..., -states:], C_bias, C_norm)
    return x, weights(None, delta, None, delta_norm), B, C
