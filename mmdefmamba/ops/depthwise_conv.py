"""Depthwise convolution: Triton kernels for channel-last maps, and a faster gradient of large kernels on a CPU."""

import torch
import torch.nn.functional as F

from .precision import result_dtype, without_autocast
from .sequence_scan.interface import prefers_triton
from .transforms import is_float32_on_cpu, is_transformed
from .triton_maps import depthwise_conv_triton

# Kernels of 3x3, and small maps, are fast in PyTorch.
MIN_KERNEL, MIN_PIXELS = 5, 144
# The fastest of 4, 8, 16 and all rows on most maps of 14x14 to 200x304 pixels.
ROWS_AT_ONCE = 8


def depthwise_conv(x, weight, bias=None, *, silu=False):
    """Convolve each channel with its own kernel, with stride 1 and a zero margin that keeps the size.

    The result is that of ``F.conv2d(x, weight, bias, padding='same', groups=channels)``, and of ``F.silu`` after it.
    Where the Triton kernels run (see :func:`~mmdefmamba.ops.sequence_scan.interface.prefers_triton`), a map that is
    stored channel-last is read where it lies, also as a part of the channels of a wider map, and the result is stored
    channel-last. They compute in float32 and round once; gradients are the same bits in each run. In float32 on a CPU
    the gradient of a kernel of 5x5 or larger is computed in another way, which takes a third of the time: see
    :func:`gradient_of_weight`.

    Args:
        x: (B, C, H, W), any dtype and device.
        weight: (C, 1, kernel height, kernel width), both sizes odd.
        bias: (C,), or None.
        silu: whether SiLU follows.

    Returns:
        (B, C, H, W), dtype of ``x``, or under autocast its dtype.

    Raises:
        ValueError: ``x`` is not a batch of maps, or the kernels do not fit it.
    """
    if x.ndim != 4 or weight.ndim != 4 or weight.shape[:2] != (x.shape[1], 1):
        raise ValueError(
            'x must be (batch, channels, height, width) and weight (channels, 1, kernel height, kernel width), '
            f'got {tuple(x.shape)} and {tuple(weight.shape)}'
        )
    if any(size % 2 == 0 for size in weight.shape[2:]):
        raise ValueError(f'kernels must have odd sizes, got {weight.shape[2]} x {weight.shape[3]}')
    dtype = result_dtype(x)
    if _takes_triton(x, weight, bias, dtype):
        with without_autocast(x.device.type):
            return depthwise_conv_triton(x.permute(0, 2, 3, 1), weight, bias, silu, dtype).permute(0, 3, 1, 2)
    y = _DepthwiseConv.apply(x, weight, bias) if _has_slow_gradient(x, weight, bias) else _convolve(x, weight, bias)
    return F.silu(y) if silu else y


def gradient_of_weight(grad, x, weight):
    """Return the gradient of the kernels of a depthwise convolution.

    The gradient at (i, j) is the sum over all pixels of the map, moved by (i, j), times the gradient of the result. So
    it is a depthwise convolution too, with the roles changed: the gradient is the kernel, and the result has the size
    of the real kernel. oneDNN has a fast convolution with a large kernel, but for the gradient of kernels larger than
    3x3 it has none: it computes a dense convolution of 16 x 16 channels and keeps the diagonal.

    Args:
        grad, x: gradient of the result, and the map, (B, C, H, W).
        weight: only its shape is read, (C, 1, kernel height, kernel width).
    """
    channels, _, height, width = weight.shape
    below, beside = height // 2, width // 2
    dweight = 0
    for grad_CHW, x_CHW in zip(grad, F.pad(x, (0, 0, below, below)), strict=True):
        # a few rows at once stay in the cache
        for row in range(0, grad.shape[2], ROWS_AT_ONCE):
            as_kernel = grad_CHW[:, row : row + ROWS_AT_ONCE]
            rows = x_CHW[:, row : row + as_kernel.shape[1] + 2 * below]
            part = F.conv2d(rows[None], as_kernel[:, None], padding=(0, beside), groups=channels)
            dweight = dweight + part
    return dweight.view(weight.shape)


def _convolve(x, weight, bias=None):
    padding = weight.shape[2] // 2, weight.shape[3] // 2
    return F.conv2d(x, weight, bias, padding=padding, groups=len(weight))


def _takes_triton(x, weight, bias, dtype):
    parameters = [weight] if bias is None else [weight, bias]
    return (
        prefers_triton(x, parameters)
        and (bias is None or bias.shape == weight.shape[:1])
        and (torch.is_autocast_enabled(x.device.type) or all(p.dtype == dtype for p in parameters))
    )


def _has_slow_gradient(x, weight, bias):
    return (
        not is_transformed()
        and torch.is_grad_enabled()
        and weight.requires_grad
        and min(weight.shape[2:]) >= MIN_KERNEL
        and x.shape[2] * x.shape[3] >= MIN_PIXELS
        and len(x) > 0
        and is_float32_on_cpu(x, weight, bias)
        and torch.backends.mkldnn.enabled
        and torch.backends.cpu.get_cpu_capability() in ('AVX2', 'AVX512')  # measured there
    )


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        # with any other layout oneDNN is several times slower
        x, grad = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, grad))
        with torch.autocast('cpu', enabled=False):
            dx = _convolve(grad, weight.flip(2, 3)) if of_x else None
            dweight = gradient_of_weight(grad, x, weight) if of_weight else None
        return dx, dweight, grad.sum((0, 2, 3)) if of_bias else None
