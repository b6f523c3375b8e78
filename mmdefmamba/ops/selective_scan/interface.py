"""One contract for the selective scan, its checks, and the choice of a backend."""

import contextlib
import logging

import torch
from mmengine.logging import print_log

from . import blockwise, mamba_ssm
from .reference import selective_scan_reference

#: name -> (function, reason why it cannot run on these tensors or None)
BACKENDS = {
    'reference': (selective_scan_reference, lambda u: None),
    'blockwise': (blockwise.selective_scan_blockwise, lambda u: None),
    'mamba_ssm': (mamba_ssm.selective_scan_mamba_ssm, mamba_ssm.unavailable_reason),
}
_forced_backend = None
_logged_choices = set()


def selective_scan(u, delta, A, B, C, D=None, delta_bias=None, *, delta_softplus=True, backend='auto'):
    """Selective scan of K groups of channels at once.

    Per channel d of group k, with a state h of N numbers starting at zero::

        delta_t = softplus(delta_t + delta_bias_d)
        h_t = exp(delta_t * A_d) * h_{t-1} + delta_t * B_t * u_t
        y_t = <C_t, h_t> + D_d * u_t

    State and exponentials are float32 at least, under autocast too; half precision inputs are widened inside.

    Args:
        u: input, (batch, K*channels, length), any floating dtype, any strides.
        delta: time step before bias and softplus, like ``u``.
        A: decay rates, negative, (K*channels, N).
        B: input weights, (batch, K, N, length).
        C: output weights, (batch, K, N, length).
        D: weight of the skip, (K*channels,), or None.
        delta_bias: (K*channels,), or None.
        delta_softplus: whether delta passes through a softplus.
        backend: 'auto', or one of ``BACKENDS``: 'reference', 'blockwise', 'mamba_ssm'. 'auto' takes mamba_ssm for
            CUDA tensors where its kernel is installed and blockwise otherwise, and logs the choice once.

    Returns:
        y, (batch, K*channels, length), dtype of ``u``.

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        TypeError: a tensor that is not floating point, or float64 beside narrower inputs.
        RuntimeError: the named backend cannot run here; the message says why.

    Source: Mamba (Gu and Dao, 2023), algorithm 2; argument names as in mamba-ssm.
    """
    _check(u, delta, A, B, C, D, delta_bias)
    function = _choose(_forced_backend or backend, u)
    with torch.autocast(u.device.type, enabled=False):
        return function(u, delta, A, B, C, D, delta_bias, delta_softplus)


def unavailable_reason(backend, u):
    """Why ``backend`` cannot run on a tensor like ``u``, or None if it can.

    Raises:
        ValueError: unknown backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be 'auto' or one of {sorted(BACKENDS)}, got {backend!r}")
    return BACKENDS[backend][1](u)


@contextlib.contextmanager
def use_backend(backend):
    """Within the block every selective scan uses ``backend``, whatever its caller asked for.

    For debugging (``with use_backend('reference'): model(x)``), for measuring, and for trying a scan of one's own.
    Not thread-safe.

    Args:
        backend: a name as in :func:`selective_scan`, or a function (u, delta, A, B, C, D, delta_bias,
            delta_softplus) -> y.
    """
    global _forced_backend
    before, _forced_backend = _forced_backend, backend
    try:
        yield
    finally:
        _forced_backend = before


def auto_backend(u):
    """What 'auto' chooses for a tensor like ``u``: the backend's name, and why."""
    if not u.is_cuda:
        return 'blockwise', f'tensors on {u.device.type}'
    reason = unavailable_reason('mamba_ssm', u)
    if reason is None:
        return 'mamba_ssm', 'CUDA tensors and its kernel is installed'
    return 'blockwise', f'slow on CUDA; mamba_ssm cannot run: {reason}'


def _choose(backend, u):
    if callable(backend):
        return backend
    if backend == 'auto':
        backend, why = auto_backend(u)
        if (backend, why) not in _logged_choices:
            _logged_choices.add((backend, why))
            level = logging.WARNING if u.is_cuda and backend == 'blockwise' else logging.INFO
            print_log(f'selective_scan: backend {backend} ({why})', logger='current', level=level)
        return BACKENDS[backend][0]
    reason = unavailable_reason(backend, u)
    if reason is not None:
        raise RuntimeError(f'selective_scan backend {backend!r} cannot run: {reason}')
    return BACKENDS[backend][0]


def _check(u, delta, A, B, C, D, delta_bias):
    tensors = {'u': u, 'delta': delta, 'A': A, 'B': B, 'C': C, 'D': D, 'delta_bias': delta_bias}
    tensors = {name: x for name, x in tensors.items() if x is not None}
    for name, x in tensors.items():
        if not x.is_floating_point():
            raise TypeError(f'{name} must be a floating point tensor, got {x.dtype}')
        if x.device != u.device:
            raise ValueError(f'{name} is on {x.device}, u on {u.device}: all tensors must share a device')
    wide = [name for name, x in tensors.items() if x.dtype == torch.float64]
    if wide and len(wide) < len(tensors):
        narrow = sorted(set(tensors) - set(wide))
        raise TypeError(f'{wide} are float64 and {narrow} are not: convert all of them, or none')

    if u.ndim != 3 or 0 in u.shape:
        raise ValueError(f'u must be (batch, channels, length), none of them 0, got {tuple(u.shape)}')
    batch, channels, length = u.shape
    if A.ndim != 2 or B.ndim != 4:
        raise ValueError(
            f'A must be (channels, N) and B (batch, groups, N, length), got {tuple(A.shape)} and {tuple(B.shape)}'
        )
    groups, states = B.shape[1], A.shape[1]
    expected = {
        'delta': (batch, channels, length),
        'A': (channels, states),
        'B': (batch, groups, states, length),
        'C': (batch, groups, states, length),
        'D': (channels,),
        'delta_bias': (channels,),
    }
    for name, shape in expected.items():
        if name in tensors and tuple(tensors[name].shape) != shape:
            raise ValueError(
                f'{name} must be {shape} to fit u {tuple(u.shape)}, {groups} groups and {states} states, '
                f'got {tuple(tensors[name].shape)}'
            )
    if groups == 0 or channels % groups:
        raise ValueError(f'the {channels} channels of u cannot be divided into the {groups} groups of B')
