"""The mamba_ssm backend: an adapter to the CUDA kernel of mamba-ssm, its extension module ``selective_scan_cuda``.

Only the extension is imported. ``import mamba_ssm`` would need transformers and more, which the kernel does not use.
"""

import importlib
import importlib.util

import torch
import torch.nn.functional as F

EXTENSION = 'selective_scan_cuda'
# Looked up once, at import: torch.compile of PyTorch 2.7 cannot trace find_spec.
INSTALLED = importlib.util.find_spec(EXTENSION) is not None
MAX_STATES = 256  # a limit compiled into the kernel
# Number of tokens that a block of threads processes at a time, by length. If the length is a multiple of it, the
# kernel uses wide loads without bounds checks.
CHUNKS = (128, 256, 512, 1024, 2048)
# Time step of a token that resets the state: exp(1e20 * A) is 0 for every decay rate in use. With u = B = C = 0 the
# token adds nothing and all its gradients are 0. A time step of 1e20 does not overflow their float32 computation.
SEPARATOR = 1e20
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
    """Return how many images to join into one sequence so that the kernel processes the fewest tokens in total.

    A separator token follows each image. The result is 1 where joining saves nothing.
    """

    def tokens(images):
        return -(-batch // images) * padded_length(images * (length + 1))

    fitting = range(2, min(batch, CHUNKS[-1] // (length + 1)) + 1)
    best = min(fitting, key=tokens, default=1)
    return best if best > 1 and tokens(best) < batch * padded_length(length) else 1


def _pack(x, images, separator):
    """Join images, with a separator after each: (b, ..., l) -> (ceil(b / images), ..., images * (l + 1))."""
    missing = -len(x) % images
    x = F.pad(F.pad(x, (0, 1), value=separator), (0, 0) * (x.ndim - 1) + (0, missing))
    return x.unflatten(0, (-1, images)).movedim(1, -2).flatten(-2)


def _unpack(y, images, batch, length):
    """Undo :func:`_pack` and drop the separators."""
    y = y[..., : images * (length + 1)].unflatten(-1, (images, length + 1))[..., :length]
    return y.movedim(-2, 1).flatten(0, 1)[:batch]


def selective_scan_mamba_ssm(u, delta, A, B, C, D, delta_bias, delta_softplus, pack=False):
    """Run a selective scan with mamba-ssm's kernel; arguments as of :func:`.interface.selective_scan`, checked there.

    Args:
        pack: join short sequences into long ones, with a token between them that resets the state. The kernel takes as
            long for a sequence of 49 tokens as for one of 128, so an estimate expects half the time or less. It is not
            the default because it has not been measured on a GPU. float16 is never packed: it cannot hold the
            separator.

    Raises:
        ValueError: there are more than 256 states, the limit of the kernel.
    """
    if A.shape[1] > MAX_STATES:
        raise ValueError(f'mamba_ssm takes at most {MAX_STATES} states, got {A.shape[1]}')
    batch, _, length = u.shape
    images = images_per_sequence(batch, length) if pack and u.dtype != torch.float16 else 1
    tokens = images * (length + 1) if images > 1 else length
    tail = padded_length(tokens) - tokens

    def prepare(x, separator=0.0):
        # The kernel needs u, delta, B and C in one dtype with unit last stride. The zeros at the end change nothing
        # before them and receive no gradient: there u = B = C = 0, and the slice below cuts off the gradient of y.
        x = x.to(u.dtype)
        if images > 1:
            x = _pack(x, images, separator)
        return F.pad(x, (0, tail)).contiguous()

    A, D, delta_bias = (None if x is None else x.float().contiguous() for x in (A, D, delta_bias))
    y = _KernelScan.apply(
        prepare(u), prepare(delta, SEPARATOR), A, prepare(B), prepare(C), D, delta_bias, delta_softplus
    )
    return y[..., :length] if images == 1 else _unpack(y, images, batch, length)
