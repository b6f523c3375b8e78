"""Adapter onto the CUDA kernel of mamba-ssm, its extension module ``selective_scan_cuda``.

The extension itself, not ``import mamba_ssm``: that needs transformers and more, for nothing used here.
"""

import importlib
import importlib.util

import torch
import torch.nn.functional as F

EXTENSION = 'selective_scan_cuda'
MAX_STATES = 256  # a limit compiled into the kernel
# Items a block of threads works through at a time, by length. Where the length is a multiple, the kernel takes its
# path of wide loads without bounds checks.
CHUNKS = (128, 256, 512, 1024, 2048)
INSTALL = '`make mamba-recipe` or docs/install.md tells how to build it'


def unavailable_reason(u):
    """Why the kernel cannot run on tensors like ``u``, or None."""
    if not u.is_cuda:
        return f'it needs CUDA tensors, these are on {u.device.type}'
    if u.dtype == torch.float64:
        return 'it has no float64'
    if importlib.util.find_spec(EXTENSION) is None:
        return f'its extension module {EXTENSION} is not installed: {INSTALL}'
    return None


def padded_length(length):
    """The next length on the kernel's even path: 49 -> 128, 784 -> 1024, 3136 -> 4096."""
    chunk = next((chunk for chunk in CHUNKS if length <= chunk), CHUNKS[-1])
    return -(-length // chunk) * chunk


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
    """Selective scan by mamba-ssm's kernel; arguments as in :func:`..interface.selective_scan`, checked there.

    Raises:
        ValueError: more than 256 states, the kernel's limit.
    """
    if A.shape[1] > MAX_STATES:
        raise ValueError(f'mamba_ssm takes at most {MAX_STATES} states, got {A.shape[1]}')
    length = u.shape[-1]
    pad = padded_length(length) - length

    def prepare(x):
        # The kernel wants u, delta, B and C in one dtype with unit last stride. A tail of zeros changes nothing
        # before it and receives no gradient: there u = B = C = 0 and the gradient of y is cut off by the slice.
        return F.pad(x.to(u.dtype), (0, pad)).contiguous()

    A, D, delta_bias = (None if x is None else x.float().contiguous() for x in (A, D, delta_bias))
    y = _KernelScan.apply(prepare(u), prepare(delta), A, prepare(B), prepare(C), D, delta_bias, delta_softplus)
    return y[..., :length]
