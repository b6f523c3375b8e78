"""Precision rules of all operators: compute in float32 or wider, and never return an overflow of float16."""

import contextlib

import torch

from .tensors import is_exporting


def at_least_float32(x):
    """Return ``x`` in float32, or in its own dtype if that is wider (float64 stays float64)."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rounded(x, dtype):
    """Round a tensor to the numbers of another dtype. It keeps its own dtype, and its gradient is not rounded.

    Args:
        x: any floating dtype.
        dtype: such as torch.float16, or None, which changes nothing.
    """
    # exact: the rounded number and the difference of two neighbours can both be represented in the dtype of x
    return x if dtype is None else x + (x.detach().to(dtype).to(x.dtype) - x.detach())


def without_autocast(device_type):
    """Return a context without autocast on a kind of device. In an exported graph it would be a graph of its own."""
    if is_exporting() or device_type == 'meta':  # PyTorch has no autocast for tensors without memory
        return contextlib.nullcontext()
    return torch.autocast(device_type, enabled=False)


def result_dtype(x):
    """Return the dtype of a convolution or linear layer of ``x``: that of autocast where it is on, else that of ``x``.

    Autocast leaves float64 alone.
    """
    kind = x.device.type
    if x.dtype == torch.float64 or kind == 'meta' or not torch.is_autocast_enabled(kind):
        return x.dtype
    return torch.get_autocast_dtype(kind)


def saturate(x):
    """Clamp a float16 tensor to its largest number, 65504; return a tensor of another dtype unchanged.

    A state space model multiplies four of its activations. A product that fits into float32 and bfloat16 can be
    infinite in float16, and NaN one layer later. NaN stays NaN. As with any clamp, a clamped value gets no gradient.
    """
    if x.dtype != torch.float16:
        return x
    limit = torch.finfo(x.dtype).max
    return x.clamp(-limit, limit)
