"""The channel attention as an operator of PyTorch."""

import torch

from ..precision import without_autocast
from ..tensors import channel_last, check_offsets

#: Tokens that one program adds up: enough programs for a GPU, and few sums.
PART = 512
T, C_BLOCK = 64, 32
#: Numbers of a tile of the linear layers, whose rows are all channels.
TILE = 4096


def _sizes(channels, hidden):
    padded = 1 << (channels - 1).bit_length()
    rows = 1 << (min(hidden, max(1, TILE // padded)) - 1).bit_length()
    return dict(H_BLOCK=rows, C_PADDED=padded, num_warps=4 if padded < 512 else 8)


@torch.library.custom_op(
    'mmdefmamba::channel_attention',
    mutates_args=(),
    schema='(Tensor x, Tensor fc1, Tensor bias1, Tensor fc2, Tensor bias2) -> (Tensor, Tensor, Tensor)',
)
def _channel_attention(x, fc1, bias1, fc2, bias2):
    from .attention_kernels import attention_forward, sum_of_parts

    x = channel_last(x)
    check_offsets('the map', x)
    batch, length, channels = x.shape
    hidden, parts = len(fc1), -(-length // PART)
    weights, pooled, unit = _empty_results(x, fc1, bias1, fc2, bias2)
    sums = pooled.new_empty(batch, parts, channels)
    with torch.cuda.device_of(x):
        sum_of_parts[(batch * parts * -(-channels // C_BLOCK),)](
            *(x, sums, length, channels, PART, x.stride(0), x.stride(1)), T=T, C_BLOCK=C_BLOCK
        )
        attention_forward[(batch,)](
            *(sums, *(p.contiguous() for p in (fc1, bias1, fc2, bias2)), weights, pooled, unit),
            *(length, parts, channels, hidden),
            **_sizes(channels, hidden),
        )
    return weights, pooled, unit


@_channel_attention.register_fake
def _empty_results(x, fc1, bias1, fc2, bias2):
    batch, _, channels = x.shape
    return tuple(x.new_empty(batch, size, dtype=torch.float32) for size in (channels, channels, len(fc1)))


@torch.library.custom_op(
    'mmdefmamba::channel_attention_backward',
    mutates_args=(),
    schema='(Tensor dweights, Tensor weights, Tensor pooled, Tensor unit, Tensor fc1, Tensor fc2, int length) '
    '-> (Tensor, Tensor, Tensor, Tensor)',
)
def _channel_attention_backward(dweights, weights, pooled, unit, fc1, fc2, length):
    from .attention_kernels import attention_backward

    (batch, channels), hidden = weights.shape, len(fc1)
    dmean, active = weights.new_empty(batch, channels), weights.new_empty(batch, hidden)
    gradients = weights.new_empty(batch, channels + hidden)
    dout, dunit = gradients.split([channels, hidden], dim=1)
    with torch.cuda.device_of(weights):
        attention_backward[(batch,)](
            *(dweights.contiguous(), weights, unit, fc1.contiguous(), fc2.contiguous(), dmean, dout, dunit, active),
            *(length, channels, hidden),
            **_sizes(channels, hidden),
        )
    with without_autocast(weights.device.type):
        return dmean, dunit.t() @ pooled, dout.t() @ active, gradients.sum(0)


@_channel_attention_backward.register_fake
def _(dweights, weights, pooled, unit, fc1, fc2, length):
    hidden, channels = fc1.shape
    shapes = (weights.shape, (hidden, channels), (channels, hidden), (channels + hidden,))
    return tuple(weights.new_empty(shape) for shape in shapes)


def _save(ctx, inputs, output):
    x, fc1, _, fc2, _ = inputs
    ctx.save_for_backward(*output, fc1, fc2)
    ctx.shape, ctx.dtypes = x.shape, [tensor.dtype for tensor in inputs]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx, dweights, *_):
    if dweights is None:
        return (None,) * 5
    dmean, dfc1, dfc2, dbiases = torch.ops.mmdefmamba.channel_attention_backward(
        dweights, *ctx.saved_tensors, ctx.shape[1]
    )
    dbias2, dbias1 = dbiases.split([dfc1.shape[1], dfc1.shape[0]])
    # The same for all tokens: a view, which nobody has to write.
    dx = dmean.to(ctx.dtypes[0]).unsqueeze(1).expand(ctx.shape)
    return dx, *(g.to(dtype) for g, dtype in zip((dfc1, dbias1, dfc2, dbias2), ctx.dtypes[1:], strict=True))


_channel_attention.register_autograd(_backward, setup_context=_save)


def channel_attention_triton(x, fc1, bias1, fc2, bias2):
    """Return the weights sigmoid(fc2(GELU(fc1(mean of tokens)))) from Triton kernels.

    Args:
        x: (B, L, C), unit last stride, or it is copied.
        fc1, bias1: weight (h, C) and bias (h,) of the first linear layer.
        fc2, bias2: weight (C, h) and bias (C,) of the second linear layer.

    Returns:
        (B, C), float32.
    """
    return torch.ops.mmdefmamba.channel_attention(x, fc1, bias1, fc2, bias2)[0]
