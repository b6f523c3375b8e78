"""LayerNorm over the channels of a map, and the residual additions and activations around it."""

import torch
import torch.nn.functional as F

from .precision import result_dtype, without_autocast
from .sequence_scan.interface import prefers_triton
from .triton_maps import add_norm_triton, norm_triton


def layer_norm(x, weight, bias, eps, *, shift=None, gelu=False, dtype=None):
    """Normalise each token over its channels, as ``F.layer_norm`` does.

    Args:
        x: (B, ..., C), any floating dtype.
        weight, bias: (C,), or None.
        eps: is added to the variance.
        shift: is added to each token before, (C,), or None.
        gelu: whether GELU, the exact one, follows.
        dtype: of the result. By default it is that of ``F.layer_norm``: float32 under autocast on CUDA.

    Returns:
        (B, ..., C). Where the Triton kernels run, one pass over memory computes it and rounds once.
    """
    if _takes_triton(x, x.shape[-1:], weight, bias):
        dtype = dtype or _dtype_of_layer_norm(x.device.type, x.dtype)
        with without_autocast(x.device.type):
            return norm_triton(x, shift, weight, bias, eps, gelu, dtype)
    y = F.layer_norm(x if shift is None else x + shift.to(x.dtype), x.shape[-1:], weight, bias, eps)
    y = F.gelu(y) if gelu else y
    return y if dtype is None else y.to(dtype)


def add_norm(x, branch, weight, bias, eps, *, kept=None, keep_prob=1.0, dtype=None):
    """Add a residual branch to a map, and normalise each token of the sum over its channels.

    Args:
        x: (B, ..., C).
        branch: like ``x``; its dtype may differ.
        weight, bias: (C,), or None.
        eps: is added to the variance.
        kept: 1 for each image whose branch is kept and 0 for each other, (B, 1, ...), or None: all are kept as they
            are. The branches that are kept are divided by ``keep_prob``.
        keep_prob: probability that a branch is kept.
        dtype: of the second result, see :func:`layer_norm`.

    Returns:
        The sum, in the wider of both dtypes, and its LayerNorm, both like ``x``. Where the Triton kernels run, one pass
        over memory computes both; in the backward too, in a fixed order.
    """
    if _takes_triton(x, x.shape[-1:], weight, bias) and branch.shape == x.shape and branch.dtype != torch.float64:
        dtype = dtype or _dtype_of_layer_norm(x.device.type, torch.promote_types(x.dtype, branch.dtype))
        with without_autocast(x.device.type):
            scale = None if kept is None else kept.flatten().float() / keep_prob
            return add_norm_triton(x, branch, scale, weight, bias, eps, dtype)
    x = x + (branch if kept is None else branch / keep_prob * kept)
    return x, layer_norm(x, weight, bias, eps, dtype=dtype)


def conv_norm(x, kernels, shift, stride, padding, weight, bias, eps, *, gelu=False, dtype=None):
    """Convolve a map, and normalise each token of the result over its channels.

    Args:
        x: (B, H, W, in channels), any strides.
        kernels, shift: weight and bias of the convolution, (C, in channels, kernel height, kernel width) and (C,) or
            None.
        stride, padding: as of ``F.conv2d``.
        weight, bias, eps, gelu, dtype: of the norm, see :func:`layer_norm`.

    Returns:
        (B, H', W', C). Where the Triton kernels run, the norm adds the bias of the convolution, for which cuDNN would
        read and write the map once more.
    """
    x = x.permute(0, 3, 1, 2)
    options = dict(gelu=gelu, dtype=dtype)
    if _takes_triton(x, kernels.shape[:1], weight, bias):
        # in this layout cuDNN writes the result as the norm reads it
        x = x.to(dtype=result_dtype(x), memory_format=torch.channels_last)
        options['shift'] = shift
        shift = None
    y = F.conv2d(x, kernels, shift, stride, padding).permute(0, 2, 3, 1)
    return layer_norm(y, weight, bias, eps, **options)


def _dtype_of_layer_norm(device_type, dtype):
    # PyTorch's autocast computes LayerNorm in float32 on CUDA, and in the dtype of its input on a CPU
    return torch.float32 if device_type == 'cuda' and torch.is_autocast_enabled(device_type) else dtype


def _takes_triton(x, channels, weight, bias):
    parameters = weight, bias
    return (
        prefers_triton(x, [p for p in parameters if p is not None])
        and all(p is not None and p.shape == channels for p in parameters)
        and (torch.is_autocast_enabled(x.device.type) or weight.dtype == bias.dtype == x.dtype)
    )
