"""Reads of a feature map at continuous positions."""

import torch
import torch.nn.functional as F


def sample_points(x, points):
    """Read a feature map bilinearly at continuous positions.

    Under ``torch.use_deterministic_algorithms`` the gradient is summed in a fixed order on every device, which takes a
    few more passes over memory. PyTorch's own operator refuses to run its backward on CUDA in this mode.

    Args:
        x: features, (batch, channels, height, width), any floating dtype.
        points: (y, x) in [-1, 1], where -1 and 1 are the centres of the first and last pixel,
            (batch, out_height, out_width, 2), float32 or float64. Positions keep this precision whatever the dtype of
            ``x``: in bfloat16 a position would be wrong by whole pixels.

    Returns:
        Features at the points, (batch, channels, out_height, out_width), dtype of ``x``; zero outside the map.

    Raises:
        ValueError: ``x`` or ``points`` has the wrong number of dimensions, or their batch sizes differ.

    Source: DefMamba, section 3.3, point offset.
    """
    if x.ndim != 4 or points.ndim != 4 or points.shape[-1] != 2:
        raise ValueError(
            'x must be (batch, channels, height, width) and points (batch, out_height, out_width, 2), '
            f'got {tuple(x.shape)} and {tuple(points.shape)}'
        )
    if x.shape[0] != points.shape[0]:
        raise ValueError(f'x has a batch of {x.shape[0]}, points have {points.shape[0]}: they must be equal')
    if torch.are_deterministic_algorithms_enabled():
        return _sample_by_index(x.to(points.dtype), points).to(x.dtype)
    grid = points.flip(-1)  # grid_sample wants (x, y)
    out = F.grid_sample(x.to(grid.dtype), grid, mode='bilinear', padding_mode='zeros', align_corners=True)
    return out.to(x.dtype)


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
