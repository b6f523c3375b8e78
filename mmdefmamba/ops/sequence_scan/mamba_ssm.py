"""The mamba_ssm backend: an adapter to the CUDA kernel of mamba-ssm, its extension module ``selective_scan_cuda``.

Only the extension is imported. ``import mamba_ssm`` would need transformers and more, which the kernel does not use.
"""

import importlib
import importlib.util
import warnings

import torch
import torch.nn.functional as F

EXTENSION = 'selective_scan_cuda'
# Looked up once, at import: torch.compile of PyTorch 2.7 cannot trace find_spec.
INSTALLED = importlib.util.find_spec(EXTENSION) is not None
MAX_STATES = 256  # a limit compiled into the kernel
# Number of tokens that a block of threads processes at a time, by length. If the length is a multiple of it, the
# kernel uses wide loads without bounds checks.
CHUNKS = (128, 256, 512, 1024, 2048)
INSTALL = '`make mamba-recipe` and docs/install.md show how to build it'


def unavailable_reason(u, states=1):
    """Return why the kernel cannot run on tensors like ``u`` with that many states, or None if it can."""
    if not u.is_cuda:
        return f'it needs CUDA tensors, these are on {u.device.type}'
    if u.dtype == torch.float64:
        return 'it does not support float64'
    if not INSTALLED:
        return f'its extension module {EXTENSION} is not installed: {INSTALL}'
    return None if states <= MAX_STATES else f'it takes at most {MAX_STATES} states, got {states}'


def padded_length(length):
    """Return the next length that needs no bounds checks: 49 -> 128, 784 -> 1024, 3136 -> 4096."""
    chunk = next((chunk for chunk in CHUNKS if length <= chunk), CHUNKS[-1])
    return -(-length // chunk) * chunk


def refuse_where_deterministic():
    """Say that the gradients are not deterministic, as PyTorch's own operators do.

    Raises:
        RuntimeError: ``torch.use_deterministic_algorithms(True)`` is on. With ``warn_only`` it is a warning.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        'the backward of mamba_ssm is not deterministic, it adds with atomics, and torch.use_deterministic_algorithms '
        "is on: use scan_backend='triton' or 'auto'"
    )
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise RuntimeError(message)
    warnings.warn(message, stacklevel=2)


class _KernelScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, delta_bias, delta_softplus):
        kernel = importlib.import_module(EXTENSION)
        out, states, *_ = kernel.fwd(u, delta, A, B, C, D, None, delta_bias, delta_softplus)
        ctx.save_for_backward(u, delta, A, B, C, D, delta_bias, states)
        ctx.delta_softplus = delta_softplus
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        refuse_where_deterministic()
        kernel = importlib.import_module(EXTENSION)
        u, delta, A, B, C, D, delta_bias, states = ctx.saved_tensors
        if grad.stride(-1) != 1:
            grad = grad.contiguous()
        du, ddelta, dA, dB, dC, dD, dbias, *_ = kernel.bwd(
            u, delta, A, B, C, D, None, delta_bias, grad, states, None, None, ctx.delta_softplus, False
        )
        dD = None if D is None else dD
        dbias = None if delta_bias is None else dbias
        return du, ddelta, dA, dB.to(B.dtype), dC.to(C.dtype), dD, dbias, None


def selective_scan_mamba_ssm(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """Run a selective scan with mamba-ssm's kernel; arguments as of :func:`.interface.selective_scan`, checked there.

    Each image is a sequence of its own. Images that lie end to end in one sequence would fill the kernel better, but no
    token between them resets the state for certain: exp(delta * A) = 0 times NaN is NaN, so that one damaged image
    would spoil its neighbours, and their gradients.

    Raises:
        ValueError: there are more than 256 states, the limit of the kernel.
    """
    if A.shape[1] > MAX_STATES:
        raise ValueError(f'mamba_ssm takes at most {MAX_STATES} states, got {A.shape[1]}')
    length = u.shape[-1]
    tail = padded_length(length) - length

    def prepare(x):
        # The kernel needs u, delta, B and C in one dtype with unit last stride. The zeros at the end change nothing
        # before them and receive no gradient: there u = B = C = 0, and the slice below cuts off the gradient of y.
        return F.pad(x.to(u.dtype), (0, tail)).contiguous()

    A, D, delta_bias = (None if x is None else x.float().contiguous() for x in (A, D, delta_bias))
    y = _KernelScan.apply(prepare(u), prepare(delta), A, prepare(B), prepare(C), D, delta_bias, delta_softplus)
    return y[..., :length]
