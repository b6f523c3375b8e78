"""The selective scan for callers: its contract, its checks, and the choice of a backend."""

import contextlib
import logging

import torch

from ..native import selective_scan_native
from ..native import unavailable_reason as native_unavailable_reason
from ..precision import saturate, without_autocast
from ..tensors import is_exporting
from ..transforms import has_function_transforms
from . import blockwise, mamba_ssm
from . import triton_backend as triton
from .exported import selective_scan_exported
from .reference import selective_scan_reference

#: name -> (scan function, function (u, states) that returns why the backend cannot run on tensors like u with that
#: many states, or None)
BACKENDS = {
    'reference': (selective_scan_reference, lambda u, states: None),
    'blockwise': (blockwise.selective_scan_blockwise, lambda u, states: None),
    'native': (selective_scan_native, native_unavailable_reason),
    'mamba_ssm': (mamba_ssm.selective_scan_mamba_ssm, mamba_ssm.unavailable_reason),
    'triton': (triton.selective_scan_triton, triton.unavailable_reason),
}
#: What 'auto' takes for CUDA tensors, the first of them that can run. mamba-ssm's kernel has been in use for years. The
#: Triton kernels have run on no GPU yet: they come second until one has measured both.
ON_CUDA = ('mamba_ssm', 'triton')
#: Backends whose gradients differ from run to run in their last bits: they add with atomics.
NOT_DETERMINISTIC = ('mamba_ssm',)
#: N of the network and of Mamba.
DEFAULT_STATES = 16
_logger = logging.getLogger('mmdefmamba')
_forced_backend = None
_logged_choices = set()


def selective_scan(u, delta, A, B, C, D=None, delta_bias=None, *, delta_softplus=True, backend='auto'):
    """Run a selective scan on K groups of channels at once.

    Per channel d of group k, with a state h of N numbers starting at zero::

        delta_t = softplus(delta_t + delta_bias_d)
        h_t = exp(delta_t * A_d) * h_{t-1} + delta_t * B_t * u_t
        y_t = <C_t, h_t> + D_d * u_t

    State and exponentials are computed in float32 or wider, under autocast too. Half precision inputs are converted
    inside.

    Args:
        u: input, (batch, K*channels, length), any floating dtype, any strides.
        delta: time step before bias and softplus, like ``u``.
        A: decay rates, negative, (K*channels, N).
        B: input weights, (batch, K, N, length).
        C: output weights, (batch, K, N, length).
        D: weight of the skip, (K*channels,), or None.
        delta_bias: (K*channels,), or None.
        delta_softplus: whether delta passes through a softplus.
        backend: 'auto', or one of ``BACKENDS``: 'reference', 'blockwise', 'native', 'mamba_ssm', 'triton'. 'auto'
            takes native on a CPU: the C kernels that were compiled at installation. For CUDA tensors it takes
            mamba_ssm if its kernel is installed, else triton; under ``torch.use_deterministic_algorithms`` it takes
            triton, because mamba_ssm adds gradients in any order. Where none of them can run it takes blockwise. It
            logs each choice once, to the logger 'mmdefmamba'.

    Returns:
        y, (batch, K*channels, length), dtype of ``u``. In float16 an overflow becomes 65504, not infinity.

    Raises:
        ValueError: the shapes do not fit each other, or the backend is unknown.
        TypeError: a tensor is not floating point, or some tensors are float64 and others are not.
        RuntimeError: the named backend cannot run here; the message says why.

    Source: Mamba (Gu and Dao, 2023), algorithm 2; argument names as in mamba-ssm.
    """
    _check(u, delta, A, B, C, D, delta_bias)
    if u.device.type == 'meta':  # a shape and a graph, without a loop over tokens
        return u + sum(x.sum() for x in (delta, A, B, C, D, delta_bias) if x is not None).to(u.dtype)
    backend = choose_backend(backend, u, A.shape[1])
    function = backend if callable(backend) else BACKENDS[backend][0]
    with without_autocast(u.device.type):
        return saturate(function(u, delta, A, B, C, D, delta_bias, delta_softplus))


def unavailable_reason(backend, u, states=DEFAULT_STATES):
    """Return why ``backend`` cannot run on a tensor like ``u`` with ``states`` states, or None if it can.

    Raises:
        ValueError: the backend is unknown.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be 'auto' or one of {sorted(BACKENDS)}, got {backend!r}")
    return BACKENDS[backend][1](u, states)


@contextlib.contextmanager
def use_backend(backend):
    """Make every selective scan within the block use ``backend``, whatever its caller asked for.

    This serves debugging (``with use_backend('reference'): model(x)``), measurements, and trials of your own scan. It
    is not thread-safe.

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


def auto_backend(u, states=DEFAULT_STATES):
    """Return what 'auto' chooses for a tensor like ``u``: the name of the backend, and the reason."""
    names = ON_CUDA if u.is_cuda else ('native',)
    reasons = [f'tensors on {u.device.type}']
    deterministic = torch.are_deterministic_algorithms_enabled()
    for name in names:
        reason = unavailable_reason(name, u, states)
        if reason is None and deterministic and name in NOT_DETERMINISTIC:
            reason = 'its gradients are not deterministic, and torch.use_deterministic_algorithms is on'
        if reason is None:
            return name, '; '.join(reasons)
        reasons.append(f'{name} cannot run: {reason}')
    return 'blockwise', '; '.join(['slow on CUDA' if u.is_cuda else reasons[0], *reasons[1:]])


def prefers_native(x):
    """Return whether operators beside the scans, which take no ``backend``, use the compiled kernels for ``x``."""
    return not is_exporting() and (_forced_backend or 'native') == 'native' and unavailable_reason('native', x) is None


def prefers_triton(x, parameters=()):
    """Return whether operators beside the scans, which take no ``backend``, use the Triton kernels for ``x``.

    They do so for CUDA tensors, unless :func:`use_backend` names a backend in plain PyTorch. In Triton's interpreter
    they do so for CPU tensors too, but only within ``use_backend('triton')``: it is slow. PyTorch's own operators serve
    what the kernels cannot, or say what is wrong with it.

    Args:
        x: the map, any shape.
        parameters: what else the operator is given, an iterable of tensors: on the device of ``x``, and floating point,
            but not float64.
    """
    backends = (None, 'triton', 'mamba_ssm') if x.is_cuda else ('triton',)
    return (
        _forced_backend in backends
        and not is_exporting()
        and unavailable_reason('triton', x) is None
        and not has_function_transforms()
        and x.numel() > 0
        and all(p.device == x.device and p.is_floating_point() and p.dtype != torch.float64 for p in parameters)
    )


def choose_backend(backend, u, states=DEFAULT_STATES):
    """Return the backend that runs for a tensor like ``u`` when a caller asks for ``backend``.

    Args:
        backend: as of :func:`selective_scan`; :func:`use_backend` overrides it.
        u: a tensor of the kind that will be scanned.
        states: N, the number of states of a channel.

    Returns:
        A name of ``BACKENDS``, or the function that was given to :func:`use_backend`. While torch.export runs it is
        always the function :func:`.exported.selective_scan_exported`.

    Raises:
        ValueError: the backend is unknown.
        RuntimeError: the named backend cannot run here; the message says why.
    """
    if is_exporting():
        return selective_scan_exported
    backend = _forced_backend or backend
    if callable(backend):
        return backend
    if backend == 'auto':
        backend, why = auto_backend(u, states)
        if not torch.compiler.is_compiling() and (backend, why) not in _logged_choices:
            _logged_choices.add((backend, why))
            level = logging.WARNING if u.is_cuda and backend == 'blockwise' else logging.INFO
            _logger.log(level, 'selective_scan: backend %s (%s)', backend, why)
        return backend
    reason = unavailable_reason(backend, u, states)
    if reason is not None:
        raise RuntimeError(f'selective_scan backend {backend!r} cannot run: {reason}')
    return backend


def check_kinds(tensors):
    """Check the tensors of a call: floating point, on one device, and float64 only if all of them are.

    Args:
        tensors: name -> tensor.

    Raises:
        TypeError: something is not a tensor or not floating point, or some tensors are float64 and others are not.
        ValueError: the tensors are on different devices.
    """
    first, u = next(iter(tensors.items()))
    for name, x in tensors.items():
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, torch.Tensor) else 'None' if x is None else f'a {type(x).__name__}'
            raise TypeError(f'{name} must be a floating point tensor, got {kind}')
        if x.device != u.device:
            raise ValueError(f'{name} is on {x.device}, {first} is on {u.device}: all tensors must be on one device')
    wide = [name for name, x in tensors.items() if x.dtype == torch.float64]
    if wide and len(wide) < len(tensors):
        narrow = sorted(set(tensors) - set(wide))
        raise TypeError(f'{wide} are float64 and {narrow} are not: convert them to one dtype')


def _check(u, delta, A, B, C, D, delta_bias):
    tensors = {'u': u, 'delta': delta, 'A': A, 'B': B, 'C': C}
    optional = {'D': D, 'delta_bias': delta_bias}
    tensors |= {name: x for name, x in optional.items() if x is not None}
    check_kinds(tensors)

    if u.ndim != 3 or 0 in u.shape:
        raise ValueError(f'u must be (batch, channels, length), all of them at least 1, got {tuple(u.shape)}')
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
        raise ValueError(f'the {channels} channels of u cannot be divided equally among the {groups} groups of B')
