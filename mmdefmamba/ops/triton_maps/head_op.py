"""The head of the offset network as an operator of PyTorch."""

import torch

from ..tensors import channel_last, check_offsets

#: Numbers of a tile: 16 for each thread of 4 warps.
TILE = 2048
#: Channels of a tile. Backward, few channels and many tokens keep the partial sums of a tile small.
FORWARD_BLOCKS, BACKWARD_BLOCKS = (128, 64, 32), (64, 32)

SCHEMA = (
    '(Tensor x, Tensor? scale, Tensor norm_weight, Tensor norm_bias, Tensor proj, float eps, int height, int width, '
    'bool points, bool order, bool released, bool norm_first) -> (Tensor, Tensor)'
)
BACKWARD_SCHEMA = (
    '(Tensor dpoints, Tensor dkeys, Tensor points, Tensor keys, Tensor x, Tensor? scale, Tensor norm_weight, '
    'Tensor norm_bias, Tensor proj, float eps, int height, int width, bool released, bool norm_first) '
    '-> (Tensor, Tensor, Tensor)'
)


def _tile(channels, blocks):
    """Return tokens and channels of a tile: the channels that leave least over, and the larger of equal ones."""
    block = min(blocks, key=lambda size: -(-channels // size) * size)
    return TILE // block, block


def _launch(kernel, x, scale, parameters, tensors, sizes, eps, height, width, points, order, released, norm_first):
    """Launch one of the two kernels; ``parameters`` and ``tensors`` are its pointers after ``scale``."""
    batch, length, channels = x.shape
    T, C_BLOCK = sizes
    divisors = (max(height - 1, 1), max(width - 1, 1)) if released else (height, width)
    with torch.cuda.device_of(x):
        kernel[(batch * -(-length // T),)](
            *(x, x if scale is None else scale.contiguous(), *(p.contiguous() for p in parameters), *tensors),
            *(length, channels, *divisors, x.stride(0), x.stride(1), eps),
            **dict(T=T, C_BLOCK=C_BLOCK, HAS_SCALE=scale is not None, NORM_FIRST=norm_first, num_warps=4),
            **dict(POINTS=points, ORDER=order, RELEASED=released),
        )


@torch.library.custom_op('mmdefmamba::offset_head', mutates_args=(), schema=SCHEMA)
def _offset_head(x, scale, norm_weight, norm_bias, proj, eps, height, width, points, order, released, norm_first):
    from .head_kernels import head_forward

    x = channel_last(x)
    check_offsets('the map', x)
    results = _empty_results(x, scale, norm_weight, norm_bias, proj, eps, height, width, points, order, None, None)
    _launch(
        *(head_forward, x, scale, (norm_weight, norm_bias, proj), results, _tile(x.shape[2], FORWARD_BLOCKS)),
        *(eps, height, width, points, order, released, norm_first),
    )
    return results


@_offset_head.register_fake
def _empty_results(x, scale, norm_weight, norm_bias, proj, eps, height, width, points, order, released, norm_first):
    batch, length, _ = x.shape
    return (
        x.new_empty((batch, length, 2) if points else 0, dtype=torch.float32),
        x.new_empty((batch, length) if order else 0, dtype=torch.float32),
    )


@torch.library.custom_op('mmdefmamba::offset_head_backward', mutates_args=(), schema=BACKWARD_SCHEMA)
def _offset_head_backward(
    dpoints, dkeys, points, keys, x, scale, norm_weight, norm_bias, proj, eps, height, width, released, norm_first
):
    from .head_kernels import head_backward

    x = channel_last(x)
    batch, length, channels = x.shape
    T, C_BLOCK = _tile(channels, BACKWARD_BLOCKS)
    tiles = -(-length // T)
    dx = x.new_empty(x.shape)
    dscale = x.new_empty((batch, tiles, channels) if scale is not None else 0, dtype=torch.float32)
    sums = x.new_empty((batch * tiles, len(proj) + 2, channels), dtype=torch.float32)
    gradients = (points, keys, dpoints.contiguous(), dkeys.contiguous(), dx, dscale, sums)
    _launch(
        *(head_backward, x, scale, (norm_weight, norm_bias, proj), gradients, (T, C_BLOCK)),
        *(eps, height, width, points.numel() > 0, keys.numel() > 0, released, norm_first),
    )
    return dx, dscale if scale is None else dscale.sum(1), sums.sum(0)


@_offset_head_backward.register_fake
def _(dpoints, dkeys, points, keys, x, scale, norm_weight, norm_bias, proj, eps, height, width, released, norm_first):
    batch, _, channels = x.shape
    return (
        x.new_empty(x.shape),
        x.new_empty((batch, channels) if scale is not None else 0, dtype=torch.float32),
        x.new_empty((len(proj) + 2, channels), dtype=torch.float32),
    )


def _save(ctx, inputs, output):
    x, scale, norm_weight, norm_bias, proj, *sizes, _, _, released, norm_first = inputs
    ctx.save_for_backward(*output, x, scale, norm_weight, norm_bias, proj)
    ctx.options = (*sizes, released, norm_first)


def _backward(ctx, dpoints, dkeys):
    scale, norm_weight, norm_bias, proj = ctx.saved_tensors[3:]
    dx, dscale, sums = torch.ops.mmdefmamba.offset_head_backward(dpoints, dkeys, *ctx.saved_tensors, *ctx.options)
    dproj, dweight, dbias = sums.split([len(proj), 1, 1])
    return (
        dx,
        None if scale is None else dscale.to(scale.dtype),
        dweight[0].to(norm_weight.dtype),
        dbias[0].to(norm_bias.dtype),
        dproj.to(proj.dtype),
        *[None] * 7,
    )


_offset_head.register_autograd(_backward, setup_context=_save)


def offset_head_triton(x, scale, norm_weight, norm_bias, proj, eps, size, points, order, released, norm_first):
    """Run the head of the offset network with Triton kernels; arguments as of :func:`~mmdefmamba.ops.offset_head`.

    Returns:
        Point offsets (B, L, 2) and sort keys (B, L), float32, or (0,) where there are none.
    """
    return torch.ops.mmdefmamba.offset_head(
        x, scale, norm_weight, norm_bias, proj, eps, *size, points, order, released, norm_first
    )
