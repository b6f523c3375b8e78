"""Adapter onto the CUDA kernel of mamba-ssm, its extension module ``selective_scan_cuda``.

The extension itself, not ``import mamba_ssm``: that needs transformers and more, for nothing used here.
"""

import importlib
import importlib.util

import torch
import torch.nn.functional as F

EXTENSION = 'selective_scan_cuda'
# Asked once: torch.compile of PyTorch 2.7 does not trace through the question.
INSTALLED = importlib.util.find_spec(EXTENSION) is not None
MAX_STATES = 256  # a limit compiled into the kernel
# Items a block of threads works through at a time, by length. Where the length is a multiple, the kernel takes its
# path of wide loads without bounds checks.
CHUNKS = (128, 256, 512, 1024, 2048)
# Time step of a token that resets the state: exp(1e20 * A) is 0 for any decay there is. With u = B = C = 0 the token
# adds nothing and all its gradients are 0; 1e20 leaves them room to be computed in float32.
SEPARATOR = 1e20
INSTALL = '`make mamba-recipe` or docs/install.md tells how to build it'


def unavailable_reason(u):
    """Why the kernel cannot run on tensors like ``u``, or None."""
    if not u.is_cuda:
        return f'it needs CUDA tensors, these are on {u.device.type}'
    if u.dtype == torch.float64:
        return 'it has no float64'
    if not INSTALLED:
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


def images_per_sequence(batch, length):
    """How many images to lay end to end, a separator after each, so that the kernel walks the fewest tokens in all."""

    def tokens(images):
        return -(-batch // images) * padded_length(images * (length + 1))

    fitting = range(2, min(batch, CHUNKS[-1] // (length + 1)) + 1)
    best = min(fitting, key=tokens, default=1)
    return best if best > 1 and tokens(best) < batch * padded_length(length) else 1


def _pack(x, images, separator):
    """(b, ..., l) -> (b / images, ..., images * (l + 1)), a separator after each image; the last row filled up."""
    missing = -len(x) % images
    x = F.pad(F.pad(x, (0, 1), value=separator), (0, 0) * (x.ndim - 1) + (0, missing))
    return x.unflatten(0, (-1, images)).movedim(1, -2).flatten(-2)


def _unpack(y, images, batch, length):
    """The inverse of :func:`_pack`, separators dropped."""
    y = y[..., : images * (length + 1)].unflatten(-1, (images, length + 1))[..., :length]
    return y.movedim(-2, 1).flatten(0, 1)[:batch]


def selective_scan_mamba_ssm(u, delta, A, B, C, D, delta_bias, delta_softplus, pack=False):
    """Selective scan by mamba-ssm's kernel; arguments as in :func:`..interface.selective_scan`, checked there.

    Args:
        pack: lay short sequences end to end, with a token between them that resets the state. The kernel gives a
            sequence of 49 tokens as much room as one of 128, so a model expects half the time or less; not the default
            because no GPU has measured it yet. Not in float16, which cannot hold the separator.

    Raises:
        ValueError: more than 256 states, the kernel's limit.
    """
    if A.shape[1] > MAX_STATES:
        raise ValueError(f'mamba_ssm takes at most {MAX_STATES} states, got {A.shape[1]}')
    batch, _, length = u.shape
    images = images_per_sequence(batch, length) if pack and u.dtype != torch.float16 else 1
    tokens = images * (length + 1) if images > 1 else length
    tail = padded_length(tokens) - tokens

    def prepare(x, separator=0.0):
        # The kernel wants u, delta, B and C in one dtype with unit last stride. A tail of zeros changes nothing
        # before it and receives no gradient: there u = B = C = 0 and the gradient of y is cut off by the slice.
        x = x.to(u.dtype)
        if images > 1:
            x = _pack(x, images, separator)
        return F.pad(x, (0, tail)).contiguous()

    A, D, delta_bias = (None if x is None else x.float().contiguous() for x in (A, D, delta_bias))
    y = _KernelScan.apply(
        prepare(u), prepare(delta, SEPARATOR), A, prepare(B), prepare(C), D, delta_bias, delta_softplus
    )
    return y[..., :length] if images == 1 else _unpack(y, images, batch, length)
