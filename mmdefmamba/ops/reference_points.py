"""Where the tokens of a map are read: reference points, offsets, and places in the table of the offset bias.

Points are (y, x) in [-1, 1], where -1 and 1 are the centres of the first and last pixel.
"""

import torch
import torch.nn.functional as F

from .precision import rounded
from .tensors import intervals, is_exporting


def reference_points(height, width, formulation, dtype, device):
    """Return the point that each token reads without an offset: (y, x), (H, W, 2), in coordinates of ``sample_points``.

    'paper': pixel centres, row i at 2 i / (H-1) - 1, so that a zero offset reads the token itself.
    'released': 2 (i + 0.5) / (H-1) - 1, half a pixel below and to the right of the centres.
    """
    shift = 0.5 if formulation == 'released' else 0.0

    def axis(size):
        pixel = torch.arange(size, dtype=dtype, device=device) + shift
        # With size 1 the formula gives -1. Along this axis all positions in [-1, 1] read the same pixel.
        return pixel / intervals(size) * 2 - 1

    return torch.stack(torch.meshgrid(axis(height), axis(width), indexing='ij'), dim=-1)


def linspace(start, end, count, dtype, device):
    """Return ``torch.linspace``; in an exported graph of operations for which ``count`` may be free.

    PyTorch's translation to ONNX would make a constant of it, for the traced size. As PyTorch does, this counts from
    the nearer end.
    """
    if not is_exporting():
        return torch.linspace(start, end, count, dtype=dtype, device=device)
    i = torch.arange(count, device=device)
    ends = i.new_full((), end, dtype=dtype)
    step = (ends - start) / i.new_full((), intervals(count), dtype=dtype)
    forwards, backwards = start + step * i.to(dtype), ends - step * (count - 1 - i).to(dtype)
    return torch.where((i < count // 2) | (i == 0), forwards, backwards)


def bias_keys(height, width, dtype, device):
    """Return the points from which the released formulation measures displacements: linspace(0, H, H), (H, W, 2).

    They are normalised as the reference points are.
    """

    def axis(size):
        return linspace(0, size, size, dtype, device) / intervals(size) * 2 - 1

    return torch.stack(torch.meshgrid(axis(height), axis(width), indexing='ij'), dim=-1)


def moved_points(offsets, formulation, precision=None):
    """Return the points that the tokens of a map read, and their displacements.

    Args:
        offsets: what is added to the reference points, (B, H, W, 2), float32 or float64.
        formulation: 'paper' or 'released'. The displacement is the offset, or the distance from the point to the key.
        precision: a dtype such as torch.float16, to whose numbers each step is rounded, or None.

    Returns:
        Points and displacements, each like ``offsets``.
    """
    height, width = offsets.shape[1:3]
    place = height, width, precision or offsets.dtype, offsets.device
    reference = reference_points(*place[:2], formulation, *place[2:]).to(offsets.dtype)
    points = rounded(reference + offsets, precision)
    if formulation != 'released':
        return points, offsets
    return points, rounded(bias_keys(*place).to(offsets.dtype) - points, precision)


def bias_table(table, displacement, formulation):
    """Return the table of an offset bias, and where each displacement reads it: at half of it.

    Args:
        table: (C, height, width).
        displacement: (B, H, W, 2), see :func:`moved_points`.
        formulation: 'paper' reads the table as it is, 'released' resizes it to the map before.

    Returns:
        The table, (C, height, width), and points, (B, H, W, 2), for :func:`~mmdefmamba.ops.sample_points`.
    """
    return sized_table(table, displacement.shape[1:3], formulation), displacement / 2


def sized_table(table, size, formulation):
    """Return the table that a map of this size reads: in the formulation 'released' it is resized to the map."""
    if formulation != 'released':
        return table
    return F.interpolate(table.unsqueeze(0), size=size, mode='bilinear', align_corners=False).squeeze(0)
