"""Where the samples of regions of interest (RoIs) lie in a map."""

import itertools
from typing import NamedTuple

import torch


class Axis(NamedTuple):
    """Where the samples of every RoI lie along one side of the map; all broadcast to (N, channels, rows, columns).

    Attributes:
        start: position of the border of the RoI, in map pixels.
        bin: number of each bin.
        bin_size: in map pixels.
        samples: number of samples along a bin. It can be negative or 0.
    """

    start: torch.Tensor
    bin: torch.Tensor
    bin_size: torch.Tensor
    samples: torch.Tensor

    def at(self, sample, shift=0):
        """Position in the map of this sample of each bin."""
        return self.start + shift + self.bin * self.bin_size + (sample + 0.5) * self.bin_size / self.samples

    def near(self, size, shift=0):
        """Return the number of the first sample of each bin that may lie in the map, and how many there are from there.

        One sample on each side of the map is among them, if there is one.
        """
        low = self.start + shift + self.bin * self.bin_size
        # a RoI with swapped corners, or without size, has as few samples as `sampling_ratio` says
        forward = (self.bin_size > 0) & (self.samples > 0)
        step = torch.where(forward, self.bin_size / self.samples, 1)
        first = torch.where(forward, ((-1 - low) / step - 0.5).floor() - 1, 0).clamp(min=0)
        last = torch.where(forward, ((size - low) / step - 0.5).ceil() + 1, self.samples).minimum(self.samples - 1)
        return first, last - first + 1


def axes(rois, height, width, spatial_scale, sampling_ratio, aligned):
    """Return the two :class:`Axis` of RoIs, of the rows and of the columns.

    Args:
        rois: (batch index, x1, y1, x2, y2) in image pixels, (N, 5).
        height, width: number of bins.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples along each side of a bin; 0 takes as many as the bin has pixels, rounded up.
        aligned: True puts pixel centres at half-integer positions; False at integer ones, RoIs at least 1 pixel wide.
    """
    both = []
    for low, high, shape in ((2, 4, (height, 1)), (1, 3, (1, width))):
        start = rois[:, low, None, None, None] * spatial_scale - 0.5 * aligned
        length = rois[:, high, None, None, None] * spatial_scale - 0.5 * aligned - start
        if not aligned:
            length = length.clamp(min=1)
        bin_size = length / max(shape)
        samples = torch.full_like(bin_size, sampling_ratio) if sampling_ratio > 0 else bin_size.ceil()
        bins = torch.arange(max(shape), device=rois.device).view(shape)
        # float64: a sample of a very large RoI has a number that float32 cannot hold
        both.append(Axis(start.double(), bins, bin_size.double(), samples.double()))
    return both


class OddRoIs(NamedTuple):
    """RoIs that need care, (N,) each. A RoI can be in one of them only.

    Attributes:
        broken: it has NaN or infinity.
        empty: it has no samples, because its corners are swapped or coincide.
        large: it has many more samples than the map has pixels.
    """

    broken: torch.Tensor
    empty: torch.Tensor
    large: torch.Tensor


def find_odd(rois, rows, columns, shape):
    """Return the :class:`OddRoIs` among ``rois``, or None if there is none.

    Args:
        rois: (batch index, x1, y1, x2, y2), (N, 5).
        rows, columns: their :func:`axes`.
        shape: of the maps, (batch, channels, height, width).

    Raises:
        ValueError: a batch index is not that of a map.
    """
    batch = rois[:, 0]
    stray = ~((batch >= 0) & (batch < shape[0]))
    # tensors from the start: the tracer that counts operations knows no `True & tensor`
    finite, some, few = (torch.ones_like(stray) for _ in range(3))
    for axis, size in ((rows, shape[2]), (columns, shape[3])):
        finite = finite & (axis.start + axis.bin_size).isfinite().flatten()
        some = some & (axis.samples > 0).flatten()
        bins = axis.bin.numel()
        few = few & (axis.samples * bins <= 4 * (size + bins)).flatten()
    odd = OddRoIs(~finite, finite & ~some, finite & some & ~few)
    if not (stray | ~finite | ~some | ~few).any():  # one question, because a GPU has to wait for each answer
        return None
    if stray.any():
        raise ValueError(
            f'the first number of a RoI is the number of its image, which must be from 0 to {shape[0] - 1}, got '
            f'{float(batch[stray][0]):g} in RoI {int(stray.nonzero()[0])}'
        )
    return odd


def each_sample(rows, columns, size, shift_y=0, shift_x=0):
    """Iterate over the numbers of samples in a bin, for all RoIs together.

    Args:
        rows, columns: :func:`axes` of the RoIs.
        size: height and width of the map.
        shift_y, shift_x: displacement of each bin, in map pixels.

    Yields:
        (has, row, column, y, x, exists): which RoIs have such a sample, (N,), and for those its row and column inside
        of the bin, its position in the map, and in which bins it exists; broadcast to (n, channels, rows, columns).
        Samples that lie far outside of the map are left out.
    """
    first_row, count_rows = rows.near(size[0], shift_y)
    first_column, count_columns = columns.near(size[1], shift_x)
    if not len(first_row):
        return
    for i, j in itertools.product(range(int(count_rows.max())), range(int(count_columns.max()))):
        exists = (count_rows > i) & (count_columns > j)
        has = exists.flatten(1).any(1)
        row, column = first_row + i, first_column + j
        yield has, row[has], column[has], rows.at(row, shift_y)[has], columns.at(column, shift_x)[has], exists[has]


def corners(rois, y, x, shape, dtype):
    """Return the pixels around each point, and whether the point counts: it may lie up to one pixel outside.

    Args:
        rois: (batch index, ...), (N, 5).
        y, x: positions in the map, broadcast to (N, channels, rows, columns).
        shape: of the maps, (batch, channels, height, width).
        dtype: of the weights and slopes.

    Returns:
        (corners, inside). ``corners`` is an iterator over four pixels: (index in the flat maps, (weight along y, along
        x), (slope of that weight along y, along x)). The weight of a pixel is the product of both.
    """
    channels, height, width = shape[1:]
    counts, near = [], []
    for position, size in ((y, height), (x, width)):
        close = (position >= -1) & (position <= size)
        counts.append(close)
        slope = ((position >= 0) & (position <= size - 1)).to(dtype)  # outside the border pixel counts, wherever it is
        position = position.where(close, 0).clamp(0, size - 1)
        low = position.long()
        near.append(
            (
                (low, (low + 1 - position).to(dtype), -slope),
                ((low + 1).clamp(max=size - 1), (position - low).to(dtype), slope),
            )
        )
    plane = rois[:, 0, None, None, None].long() * channels + torch.arange(channels, device=rois.device)[:, None, None]
    # A generator: one index is as large as the output, four at once are not needed.
    pixels = (
        ((plane * height + y_near) * width + x_near, (y_weight, x_weight), (y_slope, x_slope))
        for (y_near, y_weight, y_slope), (x_near, x_weight, x_slope) in itertools.product(*near)
    )
    return pixels, counts[0] & counts[1]
