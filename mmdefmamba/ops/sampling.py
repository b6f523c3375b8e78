"""Reads of a feature map at continuous positions."""

import torch

from .native import sample_native
from .precision import without_autocast
from .reference_points import bias_table, moved_points, sized_table
from .sequence_scan.exported import grid_sample
from .sequence_scan.interface import prefers_native, prefers_triton
from .triton_maps import sample_offsets_triton

FORMULATIONS = ('paper', 'released')


def sample_points(x, points, table=None, table_points=None):
    """Read a feature map bilinearly at continuous positions, and add what a table holds at other positions.

    Under ``torch.use_deterministic_algorithms`` the gradient is summed in a fixed order on every device, which takes a
    few more passes over memory. PyTorch's own operator refuses to run its backward on CUDA in this mode.

    Args:
        x: features, (batch, channels, height, width), any floating dtype.
        points: (y, x) in [-1, 1], where -1 and 1 are the centres of the first and last pixel,
            (batch, out_height, out_width, 2), float32 or float64. Positions keep this precision whatever the dtype of
            ``x``: in bfloat16 a position would be wrong by whole pixels.
        table: features that all images share, (channels, table_height, table_width), or None.
        table_points: where the table is read for each point, like ``points``.

    Returns:
        Features at the points, (batch, channels, out_height, out_width), dtype of ``x``; zero outside the map.

    Raises:
        ValueError: ``x`` or ``points`` has the wrong number of dimensions, their batch sizes differ, ``x`` is not
            floating point, or ``table`` or ``table_points`` is missing or does not fit them.

    Source: DefMamba, section 3.3, point offset and offset bias.
    """
    if x.ndim != 4 or points.ndim != 4 or points.shape[-1] != 2:
        raise ValueError(
            'x must be (batch, channels, height, width) and points (batch, out_height, out_width, 2), '
            f'got {tuple(x.shape)} and {tuple(points.shape)}'
        )
    if x.shape[0] != points.shape[0]:
        raise ValueError(f'x has a batch of {x.shape[0]}, points have {points.shape[0]}: they must be equal')
    if not x.is_floating_point():
        raise ValueError(f'x must be a floating point tensor, got {x.dtype}')
    if (table is None) != (table_points is None):
        raise ValueError('table and table_points belong together: give both or none')
    if table is not None and (
        table.ndim != 3 or len(table) != x.shape[1] or 0 in table.shape[1:] or table_points.shape != points.shape
    ):
        raise ValueError(
            f'table must be ({x.shape[1]}, height, width) and table_points {tuple(points.shape)}, '
            f'got {tuple(table.shape)} and {tuple(table_points.shape)}'
        )
    if prefers_native(x) and x.numel() and points.numel() and points.dtype == torch.float32:
        with without_autocast(x.device.type):
            return sample_native(x, points, table, table_points).permute(0, 3, 1, 2).to(x.dtype)
    sampled = _sample(x, points)
    if table is None:
        return sampled
    # All images read the same table. As rows of one tall image they need no copy of the table per image.
    batch, height, width, _ = points.shape
    rows = table_points.reshape(1, batch * height, width, 2)
    read = _sample(table.unsqueeze(0), rows).view(x.shape[1], batch, height, width).transpose(0, 1)
    return sampled + read.to(sampled.dtype)


def sample_offsets(x, offsets, table=None, *, formulation='paper'):
    """Read a feature map bilinearly at its own tokens' reference points plus offsets, and add an offset bias.

    This computes ``sample_points(x, points, *bias_table(table, displacement))`` with the points and displacements of a
    formulation, see :mod:`.reference_points`. On CUDA, in float32 or half precision, one kernel does it all in float32
    and rounds once, and the gradient is summed in a fixed order without atomics. Offsets may have any size. Those of a
    network keep a point within one pixel of its token on each axis; the gradient of an image with others is slow.

    Args:
        x: features, (batch, channels, height, width), any floating dtype. The kernel reads a map that is stored
            channel-last where it lies, and copies any other.
        offsets: (y, x) in normalised coordinates, where a map spans 2, (batch, height, width, 2), float32 or float64.
        table: features of the offset bias that all images share, (channels, table height, table width), any floating
            dtype, or None. The formulation 'released' resizes it to the map.
        formulation: 'paper': reference points are the pixel centres, and the table is read at half the offset.
            'released': reference points lie half a pixel after them, and the table is read at half the distance from a
            point to its key.

    Returns:
        (batch, channels, height, width), dtype of ``x``; zero outside the map. The kernel stores it channel-last.

    Raises:
        ValueError: the shapes do not fit each other, a tensor is not floating point, or the formulation is unknown.

    Source: DefMamba, section 3.3, point offset and offset bias.
    """
    if formulation not in FORMULATIONS:
        raise ValueError(f'formulation must be one of {FORMULATIONS}, got {formulation!r}')
    if x.ndim != 4 or tuple(offsets.shape) != (x.shape[0], *x.shape[2:], 2):
        raise ValueError(
            'x must be (batch, channels, height, width) and offsets (batch, height, width, 2) of the same sizes, '
            f'got {tuple(x.shape)} and {tuple(offsets.shape)}'
        )
    if table is not None and (table.ndim != 3 or len(table) != x.shape[1] or 0 in table.shape):
        raise ValueError(f'table must be ({x.shape[1]}, height, width), got {tuple(table.shape)}')
    for name, tensor in (('x', x), ('offsets', offsets), ('table', table)):
        if tensor is not None and not tensor.is_floating_point():
            raise ValueError(f'{name} must be a floating point tensor, got {tensor.dtype}')
    if offsets.dtype == torch.float32 and prefers_triton(x):
        with without_autocast(x.device.type):
            table = None if table is None else sized_table(table.float(), x.shape[2:], formulation)
            out = sample_offsets_triton(x.flatten(2).transpose(1, 2), offsets, table, formulation)
        return out.transpose(1, 2).unflatten(2, x.shape[2:])
    points, displacement = moved_points(offsets, formulation)
    return sample_points(x, points, *(() if table is None else bias_table(table, displacement, formulation)))


def _sample(x, points):
    """Read a map with PyTorch's own operators; arguments as of :func:`sample_points`."""
    if torch.are_deterministic_algorithms_enabled():
        return _sample_by_index(x.to(points.dtype), points).to(x.dtype)
    grid = points.flip(-1)  # grid_sample wants (x, y)
    return grid_sample(x.to(grid.dtype), grid).to(x.dtype)


def _sample_by_index(x, points):
    """Compute what grid_sample computes as a sum of four reads by index, each with a deterministic gradient."""
    batch, channels, height, width = x.shape
    tokens = x.flatten(2).transpose(1, 2).reshape(batch * height * width, channels)
    first_token = torch.arange(0, len(tokens), height * width, device=x.device).view(-1, 1, 1)
    # (index, weight) of the two pixels next to each point, for each axis
    rows, columns = (
        _neighbours((points[..., axis] + 1) / 2 * (size - 1), size) for axis, size in ((0, height), (1, width))
    )
    out = 0
    for row, row_weight in rows:
        for column, column_weight in columns:
            index = (first_token + row * width + column).flatten()
            out = out + tokens.index_select(0, index) * (row_weight * column_weight).reshape(-1, 1)
    return out.view(batch, *points.shape[1:3], channels).permute(0, 3, 1, 2)


def _neighbours(position, size):
    """Return (index, weight) of the two pixels around each position on an axis.

    Each index is within bounds. The weight of a pixel that is out of bounds is 0.
    """
    before = position.detach().floor()
    fraction = position - before
    pixels = []
    for pixel, weight in ((before, 1 - fraction), (before + 1, fraction)):
        inside = (pixel >= 0) & (pixel < size)
        # NaN cannot be an index, so it reaches the result through the weight. Any other weight outside becomes 0.
        place = pixel.nan_to_num(0).clamp(0, size - 1).long()
        pixels.append((place, weight.where(inside | weight.isnan(), 0)))
    return pixels
