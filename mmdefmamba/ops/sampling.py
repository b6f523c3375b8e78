"""Reading a feature map at continuous positions."""

import torch.nn.functional as F


def sample_points(x, points):
    """Bilinearly read a feature map at continuous positions.

    Args:
        x: features, (batch, channels, height, width), any floating dtype.
        points: (y, x) in [-1, 1], -1 and 1 the centres of the first and last pixel,
            (batch, out_height, out_width, 2), float32 or float64. The positions keep this precision whatever
            the dtype of ``x``: in bfloat16 a position would be off by whole pixels.

    Returns:
        Features at the points, (batch, channels, out_height, out_width), dtype of ``x``; zero outside.

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
        raise ValueError(f'x has a batch of {x.shape[0]}, points of {points.shape[0]}: they must be equal')
    grid = points.flip(-1)  # grid_sample wants (x, y)
    out = F.grid_sample(x.to(grid.dtype), grid, mode='bilinear', padding_mode='zeros', align_corners=True)
    return out.to(x.dtype)
