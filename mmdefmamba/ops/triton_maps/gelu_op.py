"""A bias and the exact GELU after a matrix product, as operators of PyTorch."""

import torch

R, C_BLOCK = 16, 128
#: Programs of the backward, each of which writes sums of the bias's gradient.
MAX_PROGRAMS = 2048


def _tiling(x):
    rows = x.numel() // x.shape[-1]
    return rows, -(-rows // R), -(-x.shape[-1] // C_BLOCK), dict(R=R, C_BLOCK=C_BLOCK, num_warps=4)


def _launch(x, bias, out):
    from .gelu_kernels import gelu_forward

    rows, tiles, blocks, sizes = _tiling(x)
    with torch.cuda.device_of(x):
        gelu_forward[(tiles * blocks,)](x, bias.contiguous(), out, rows, x.shape[-1], **sizes)
    return out


@torch.library.custom_op('mmdefmamba::bias_gelu', mutates_args=(), schema='(Tensor x, Tensor bias) -> Tensor')
def _bias_gelu(x, bias):
    return _launch(x.contiguous(), bias, x.new_empty(x.shape))


@_bias_gelu.register_fake
def _(x, bias):
    return x.new_empty(x.shape)


@torch.library.custom_op('mmdefmamba::bias_gelu_', mutates_args={'x'}, schema='(Tensor(a!) x, Tensor bias) -> ()')
def _bias_gelu_in_place(x, bias):
    _launch(x, bias, x)


@torch.library.custom_op(
    'mmdefmamba::bias_gelu_backward',
    mutates_args=(),
    schema='(Tensor dout, Tensor x, Tensor bias) -> (Tensor, Tensor)',
)
def _bias_gelu_backward(dout, x, bias):
    from .gelu_kernels import gelu_backward

    dout, x, bias = dout.contiguous(), x.contiguous(), bias.contiguous()
    dx, dbias = _empty_gradients(dout, x, bias)
    rows, tiles, blocks, sizes = _tiling(x)
    parts = max(1, min(tiles, MAX_PROGRAMS // blocks))
    sums = x.new_empty(parts, x.shape[-1], dtype=torch.float32)
    with torch.cuda.device_of(x):
        gelu_backward[(parts * blocks,)](dout, x, bias, dx, sums, rows, x.shape[-1], tiles, parts, **sizes)
        dbias.copy_(sums.sum(0))
    return dx, dbias


@_bias_gelu_backward.register_fake
def _empty_gradients(dout, x, bias):
    return x.new_empty(x.shape), bias.new_empty(bias.shape)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, dout):
    return torch.ops.mmdefmamba.bias_gelu_backward(dout, *ctx.saved_tensors)


_bias_gelu.register_autograd(_backward, setup_context=_save)


def bias_gelu_triton(x, bias, *, in_place=False):
    """Return GELU(x + bias) from a Triton kernel, which computes in float32.

    Args:
        x: (..., C), contiguous if ``in_place``.
        bias: (C,).
        in_place: whether the result is written to ``x``; it has no gradient.
    """
    if not in_place:
        return torch.ops.mmdefmamba.bias_gelu(x, bias)
    torch.ops.mmdefmamba.bias_gelu_(x, bias)
    return x
