"""The sum of several maps as an operator of PyTorch."""

import torch

from ..tensors import channel_last, check_offsets, grid_of

#: Maps that one launch adds up.
AT_ONCE = 6
BLOCK = 1024


@torch.library.custom_op('mmdefmamba::sum_maps', mutates_args=(), schema='(Tensor[] maps) -> Tensor')
def _sum_maps(maps):
    from .sum_kernels import sum_maps

    maps = [channel_last(x) for x in maps]
    for x in maps:
        check_offsets('a gradient', x)
    total = maps[0]
    batch, length, channels = total.shape
    with torch.cuda.device_of(total):
        for begin in range(0, len(maps), AT_ONCE - 1):  # with more maps, a launch begins with the sum of those before
            added = [total, *maps[begin + 1 : begin + AT_ONCE]]
            if len(added) == 1 and begin:
                break
            given = [added[min(i, len(added) - 1)] for i in range(AT_ONCE)]
            total = _empty_sum(maps)
            sum_maps[grid_of(-(-length * channels // BLOCK) * batch)](
                *(*given, total, length * channels, channels),
                *(*(x.stride(0) for x in given), *(x.stride(1) for x in given)),
                **dict(COUNT=len(added), BLOCK=BLOCK),
            )
    return total


@_sum_maps.register_fake
def _empty_sum(maps):
    return maps[0].new_empty(maps[0].shape)


def sum_maps_triton(maps):
    """Return the sum of maps from a Triton kernel, which adds in float32 and rounds once.

    Args:
        maps: tensors (B, L, C) of one dtype, unit last stride, or they are copied. Other strides may be 0.

    Returns:
        (B, L, C), contiguous. The order of the additions is that of ``maps``.
    """
    return torch.ops.mmdefmamba.sum_maps(maps)
