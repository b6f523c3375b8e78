"""The depthwise convolution of channel-last maps as an operator of PyTorch."""

import torch

from ..tensors import channel_last

C_BLOCK = 32
#: Strips of a program and its warps: four channels for each thread, 8 bytes of bfloat16.
STRIPS_AND_WARPS = ((16, 4), (8, 2))
#: Columns of a strip. The maps of an image of 224 pixels are 56, 28, 14 and 7 wide: 8 and 7 leave nothing over.
STRIP_COLUMNS = (8, 7)
#: Sums that a thread of the backward holds for each of its channels, beside a strip of gradients: with 28 the registers
#: do not suffice.
MAX_SUMS = 27
#: The backward divides images until it has this many programs: enough for a GPU of 132 multiprocessors.
MIN_PROGRAMS = 1024


def _tiling(x, kernel_width):
    """Return the sizes of the programs' tiles, and how many of them cover an image; see the kernels' legend."""
    height, width = x.shape[1:3]
    columns = min(STRIP_COLUMNS, key=lambda size: -(-width // size) * size)
    strips = height * -(-width // columns)
    per_program, warps = min(STRIPS_AND_WARPS, key=lambda option: -(-strips // option[0]) * option[0])
    tiles = -(-strips // per_program)
    return tiles, dict(KW=kernel_width, T=columns, G=per_program, C_BLOCK=C_BLOCK, num_warps=warps)


def _rows_of_weights(weight):
    """Return weights (C, 1, KH, KW) as (KH * KW, C): neighbouring threads read neighbouring channels."""
    return weight.flatten(1).t().contiguous()


def _launch_forward(x, rows, bias, out, kernel_height, kernel_width, flip, silu):
    from .depthwise_kernels import depthwise_forward

    batch, height, width, channels = x.shape
    tiles, sizes = _tiling(x, kernel_width)
    depthwise_forward[(batch * tiles * -(-channels // C_BLOCK),)](
        *(x, rows, bias, out, height, width, channels, tiles, *x.stride()[:3]),
        **dict(KH=kernel_height, FLIP=flip, HAS_BIAS=bias is not None, SILU=silu, **sizes),
    )
    return out


@torch.library.custom_op(
    'mmdefmamba::depthwise_conv',
    mutates_args=(),
    schema='(Tensor x, Tensor weight, Tensor? bias, bool silu, ScalarType dtype) -> Tensor',
)
def _depthwise_conv(x, weight, bias, silu, dtype):
    x, bias = channel_last(x), None if bias is None else bias.contiguous()
    with torch.cuda.device_of(x):
        out = _empty_result(x, weight, bias, silu, dtype)
        return _launch_forward(x, _rows_of_weights(weight), bias, out, *weight.shape[2:], False, silu)


@_depthwise_conv.register_fake
def _empty_result(x, weight, bias, silu, dtype):
    return x.new_empty(x.shape, dtype=dtype)


@torch.library.custom_op(
    'mmdefmamba::depthwise_conv_backward',
    mutates_args=(),
    schema='(Tensor dout, Tensor x, Tensor weight, Tensor? bias, bool silu, bool of_x, bool of_parameters) '
    '-> (Tensor, Tensor, Tensor)',
)
def _depthwise_conv_backward(dout, x, weight, bias, silu, of_x, of_parameters):
    x, dout, bias = channel_last(x), channel_last(dout), None if bias is None else bias.contiguous()
    dx, dweight, dbias = _empty_gradients(dout, x, weight, bias, silu, of_x, of_parameters)
    with torch.cuda.device_of(x):
        rows, dlinear = _rows_of_weights(weight), dout
        if of_parameters or silu:
            dlinear, sums = _launch_backward(dout, x, rows, bias, *weight.shape[2:], silu)
        if of_parameters:
            total = sums.sum(0)
            dweight.copy_(total[:-1].t().view(weight.shape))
            dbias.copy_(total[-1, : len(dbias)])
        if of_x:
            _launch_forward(dlinear, rows, None, dx, *weight.shape[2:], True, False)
    return dx, dweight, dbias


@_depthwise_conv_backward.register_fake
def _empty_gradients(dout, x, weight, bias, silu, of_x, of_parameters):
    def empty(of, needed):
        return of.new_empty(of.shape if needed else 0)

    has_bias = of_parameters and bias is not None
    return empty(x, of_x), empty(weight, of_parameters), empty(bias if has_bias else weight, has_bias)


def _launch_backward(dout, x, rows, bias, kernel_height, kernel_width, silu):
    """Return the gradient of the convolution before a SiLU, and sums whose total are the gradients of the parameters.

    Each program adds up a part of one image in a fixed order, and so is their total: every run gives the same bits.
    """
    from .depthwise_kernels import depthwise_backward

    batch, height, width, channels = x.shape
    tiles, sizes = _tiling(x, kernel_width)
    # as many rows of the kernel as the registers hold, and at most one that the last program does not need
    at_once = range(max(1, min(kernel_height, MAX_SUMS // kernel_width)), 0, -1)
    at_once = next(count for count in at_once if -kernel_height % count <= 1)
    groups = -(-kernel_height // at_once)
    programs = batch * groups * -(-channels // C_BLOCK)
    splits = min(tiles, -(-MIN_PROGRAMS // programs))
    sums = rows.new_empty(batch * splits, len(rows) + 1, channels, dtype=torch.float32)
    dlinear = dout.new_empty(dout.shape) if silu else None
    depthwise_backward[(programs * splits,)](
        *(dout, x, rows, bias, dlinear, sums, height, width, channels, tiles, splits),
        *(*dout.stride()[:3], *x.stride()[:3]),
        **dict(KH=kernel_height, ROWS=at_once, HAS_BIAS=bias is not None, SILU=silu, **sizes),
    )
    return dout if dlinear is None else dlinear, sums


def _save(ctx, inputs, output):
    x, weight, bias, ctx.silu, _ = inputs
    ctx.save_for_backward(x, weight, bias)


def _backward(ctx, dout):
    x, weight, bias = ctx.saved_tensors
    of_x, *of_parameters = ctx.needs_input_grad[:3]
    dx, dweight, dbias = torch.ops.mmdefmamba.depthwise_conv_backward(
        dout, x, weight, bias, ctx.silu, of_x, any(of_parameters)
    )
    of_weight, of_bias = of_parameters
    return dx if of_x else None, dweight if of_weight else None, dbias if of_bias else None, None, None


_depthwise_conv.register_autograd(_backward, setup_context=_save)


def depthwise_conv_triton(x, weight, bias, silu, dtype):
    """Convolve a channel-last map with Triton kernels, in float32.

    Args:
        x: (B, H, W, C), unit last stride, or it is copied.
        weight: (C, 1, kernel height, kernel width), both sizes odd.
        bias: (C,), or None.
        silu: whether the SiLU of the sum is returned.
        dtype: of the result.

    Returns:
        (B, H, W, C), contiguous.
    """
    return torch.ops.mmdefmamba.depthwise_conv(x, weight, bias, silu, dtype)
