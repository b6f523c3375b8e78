"""RoI pooling and deformable RoI pooling."""

import itertools

import torch

from .dtypes import compute_dtype, promoted
from .rois import axes, corners, each_sample, find_odd

__all__ = ['deform_roi_pool_backward', 'deform_roi_pool_forward', 'roi_pool_backward', 'roi_pool_forward']


def roi_pool_forward(input, rois, output, argmax, pooled_height, pooled_width, spatial_scale):
    """Take the largest pixel of each bin of every RoI; writes ``output`` and ``argmax``.

    A RoI begins at ``x1`` times the scale and ends at ``x2 + 1`` times the scale, without rounding. Its bins are
    rounded to whole pixels, outwards. torchvision's operator rounds the RoI instead.

    Args:
        input: feature maps, any float type, (batch, channels, height, width).
        rois: (batch index, x1, y1, x2, y2) in image pixels, (N, 5).
        output: written, (N, channels, pooled_height, pooled_width). An empty bin gives 0, as one outside of the map
            or of a RoI with swapped corners is. A RoI with NaN or infinity gives NaN. The gradient of both is 0.
        argmax: written: row * width + column of the pixel, or -1, int32, shape of ``output``.
        pooled_height, pooled_width: number of bins.
        spatial_scale: map pixels per image pixel.

    Raises:
        ValueError: a batch index is not that of a map.

    Source: the call contract of ``mmcv.ops.roi_pool``; Fast R-CNN, section 2.1.
    """
    x_BCHW, rois = promoted(input, rois)
    channels, height, width = input.shape[1:]
    ends = torch.cat((rois[:, :3], rois[:, 3:] + 1), dim=1)
    odd = find_odd(ends, *axes(ends, pooled_height, pooled_width, spatial_scale, 1, True), input.shape)
    if odd is not None:
        ends = ends.masked_fill(odd.broken[:, None], 0)
    edges = []
    for low, high, size, shape in ((2, 4, height, (pooled_height, 1)), (1, 3, width, (1, pooled_width))):
        start = ends[:, low, None, None, None] * spatial_scale
        length = ends[:, high, None, None, None] * spatial_scale - start
        bins = torch.arange(max(shape), device=rois.device).view(shape)
        step = length / max(shape)
        first = (bins * step + start).floor().clamp(0, size).long()
        last = ((bins + 1) * step + start).ceil().clamp(0, size).long()
        edges.append((first, torch.where(length > 0, last - first, 0)))
    (top, rows), (left, columns) = edges
    flat = x_BCHW.flatten()
    plane = ends[:, 0, None, None, None].long() * channels + torch.arange(channels, device=rois.device)[:, None, None]
    best = x_BCHW.new_zeros(output.shape)
    argmax.fill_(-1)
    most_rows, most_columns = (int(count.max()) if len(rois) else 0 for count in (rows, columns))
    for i, j in itertools.product(range(most_rows), range(most_columns)):
        exists = (rows > i) & (columns > j)
        place = ((top + i) * width + left + j).where(exists, 0)
        value = flat[plane * (height * width) + place]
        # The first pixel always wins, then the larger; NaN beats all, it must not vanish in a comparison.
        wins = exists & ((argmax < 0) | (value > best) | value.isnan())
        best = value.where(wins, best)
        argmax.copy_(place.to(argmax.dtype).where(wins, argmax))
    if odd is not None:
        best[odd.broken] = float('nan')
        argmax[odd.broken] = -1
    output.copy_(best)


def roi_pool_backward(grad_output, rois, argmax, grad_input, pooled_height, pooled_width, spatial_scale):
    """Gradient of :func:`roi_pool_forward` to ``input``; adds to ``grad_input``.

    Args:
        grad_output: gradient of ``output``, (N, channels, pooled_height, pooled_width).
        rois, argmax: as given to and written by the forward.
        grad_input: added to, (batch, channels, height, width).
    """
    channels, height, width = grad_input.shape[1:]
    plane = rois[:, 0, None, None, None].long() * channels + torch.arange(channels, device=rois.device)[:, None, None]
    index = plane * (height * width) + argmax.clamp(min=0)
    grad = grad_output.to(compute_dtype(grad_output.dtype)).where(argmax >= 0, 0)
    total = grad.new_zeros(grad_input.numel()).index_add_(0, index.flatten(), grad.flatten())
    grad_input += total.view_as(grad_input)


def deform_roi_pool_forward(
    input, rois, offset, output, pooled_height, pooled_width, spatial_scale, sampling_ratio, gamma
):
    """RoIAlign with a displacement of each bin; writes ``output``.

    Args:
        input: feature maps, any float type, (batch, channels, height, width).
        rois: (batch index, x1, y1, x2, y2) in image pixels, (N, 5). Pixel centres lie at half-integer positions.
        offset: (x, y) of each bin, in parts of the RoI's width and height, (N, 2, pooled_height, pooled_width); or
            empty, (0,), for none.
        output: written, the mean of the samples of each bin, (N, channels, pooled_height, pooled_width). A RoI without
            samples gives 0, as one with swapped corners does. A RoI or an offset with NaN or infinity gives NaN. The
            gradient of both is 0.
        pooled_height, pooled_width: number of bins.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples along each side of a bin; 0 takes as many as the bin has pixels, rounded up.
        gamma: factor of the offsets.

    Raises:
        ValueError: a batch index is not that of a map.

    Source: the call contract of ``mmcv.ops.deform_roi_pool``; Deformable Convolutional Networks, section 2.2.
    """
    x_BCHW, *_ = promoted(input)
    flat = x_BCHW.flatten()
    total = x_BCHW.new_zeros(output.shape)
    sampled = _Displaced(x_BCHW, rois, offset, pooled_height, pooled_width, spatial_scale, sampling_ratio, gamma)
    for has, pixels, inside in sampled.each():
        value = sum(flat[index] * (y_weight * x_weight) for index, (y_weight, x_weight), _ in pixels)
        total[has] += value.where(inside, 0)
    output.copy_((total / sampled.count).masked_fill(sampled.broken, float('nan')))


def deform_roi_pool_backward(
    grad_output,
    input,
    rois,
    offset,
    grad_input,
    grad_offset,
    pooled_height,
    pooled_width,
    spatial_scale,
    sampling_ratio,
    gamma,
):
    """Gradients of :func:`deform_roi_pool_forward`; adds to ``grad_input`` and ``grad_offset``.

    A sample up to one pixel outside of the map takes its value from the border. An offset along that side does not
    change it, and has the gradient 0. The kernel of mmcv extends the slope of the map there.

    Args:
        grad_output: gradient of ``output``, (N, channels, pooled_height, pooled_width).
        grad_input, grad_offset: added to; shapes of ``input`` and ``offset``.

    The other arguments are those of the forward.
    """
    grad, x_BCHW = promoted(grad_output, input)
    sampled = _Displaced(x_BCHW, rois, offset, pooled_height, pooled_width, spatial_scale, sampling_ratio, gamma)
    grad = (grad / sampled.count).masked_fill(sampled.broken, 0)
    flat = x_BCHW.flatten()
    total = torch.zeros_like(flat)
    slopes = grad.new_zeros(len(rois), 2, pooled_height, pooled_width)
    for has, pixels, inside in sampled.each():
        part = grad[has].where(inside, 0)
        for index, (y_weight, x_weight), (y_slope, x_slope) in pixels:
            total.index_add_(0, index.flatten(), (part * (y_weight * x_weight)).flatten())
            by_pixel = (part * flat[index]).where(inside, 0)
            slopes[has, 0] += (by_pixel * (x_slope * y_weight)).sum(1)
            slopes[has, 1] += (by_pixel * (y_slope * x_weight)).sum(1)
    grad_input += total.view_as(grad_input)
    if offset.numel():
        grad_offset += (slopes * sampled.unit).to(grad_offset.dtype)


class _Displaced:
    """The samples of RoIs whose bins are displaced.

    Attributes:
        count: samples per bin, at least 1, (N, 1, 1, 1).
        unit: map pixels per unit of the offsets along (x, y), (N, 2, 1, 1).
        broken: bins of a RoI with NaN or infinity, or displaced by such a number, (N, 1, height or 1, width or 1).
    """

    def __init__(self, x_BCHW, rois, offset, height, width, spatial_scale, sampling_ratio, gamma):
        self._shape, self._dtype = x_BCHW.shape, x_BCHW.dtype
        self._rois = rois.to(x_BCHW.dtype)
        make = (height, width, spatial_scale, sampling_ratio, True)
        odd = find_odd(self._rois, *axes(self._rois, *make), self._shape)
        broken = torch.zeros_like(rois[:, 0], dtype=torch.bool) if odd is None else odd.broken
        self._rois = self._rois.masked_fill(broken[:, None], 0)
        self.broken = broken[:, None, None, None]
        self._rows, self._columns = axes(self._rois, *make)
        self.count = (self._rows.samples * self._columns.samples).clamp(min=1).to(self._dtype)
        lengths = (self._columns.bin_size * width, self._rows.bin_size * height)
        self.unit = gamma * torch.cat(lengths, dim=1).to(self._dtype)
        self._shifts = (0, 0)
        if offset.numel():
            shift = offset.to(self._dtype) * self.unit
            astray = ~shift.isfinite().all(1, keepdim=True)
            shift = shift.masked_fill(astray, 0).double()
            self.broken = self.broken | astray
            self._shifts = shift[:, 1:], shift[:, :1]

    def each(self):
        """Yield (RoIs that have such a sample, its pixels as from :func:`corners`, where it exists and counts)."""
        for has, _, _, y, x, exists in each_sample(self._rows, self._columns, self._shape[2:], *self._shifts):
            pixels, inside = corners(self._rois[has], y, x, self._shape, self._dtype)
            yield has, pixels, inside & exists
