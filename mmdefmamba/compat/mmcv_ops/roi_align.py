"""RoIAlign, on torchvision's kernels where its mean is asked for."""

import torch

from .dtypes import compute_dtype
from .rois import axes, corners, each_sample, find_odd

__all__ = ['roi_align_backward', 'roi_align_forward']


def roi_align_forward(
    input,
    rois,
    output,
    argmax_y,
    argmax_x,
    aligned_height,
    aligned_width,
    spatial_scale,
    sampling_ratio,
    pool_mode,
    aligned,
):
    """Pool bilinear samples of every RoI into a fixed grid of bins; writes ``output``.

    Args:
        input: feature maps, any float type, (batch, channels, height, width).
        rois: (batch index, x1, y1, x2, y2) in image pixels, (N, 5).
        output: written, (N, channels, aligned_height, aligned_width).
        argmax_y, argmax_x: written if ``pool_mode`` is 0: row and column of the winning sample inside its bin, -1
            where the RoI has no samples; for :func:`roi_align_backward` alone. mmcv's own kernel stores coordinates
            in the map there, which half precision cannot hold; sample numbers it can. Shape of ``output``.
        aligned_height, aligned_width: number of bins.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples along each side of a bin; 0 takes as many as the bin has pixels, rounded up.
        pool_mode: 0 takes the largest sample of a bin, 1 their mean. A RoI without samples gives 0, as one with swapped
            corners does. A RoI with NaN or infinity gives NaN. The gradient of both is 0.
        aligned: True puts pixel centres at half-integer positions; False at integer ones, RoIs at least 1 pixel wide.

    Raises:
        ValueError: a batch index is not that of a map.

    Source: the call contract of ``mmcv.ops.roi_align``; RoIAlign of Mask R-CNN, section 3.
    """
    dtype = compute_dtype(input.dtype)
    x_BCHW, rois = input.to(dtype), rois.to(dtype)
    rows, columns = axes(rois, aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
    odd = find_odd(rois, rows, columns, input.shape)
    if pool_mode == 1:
        import torchvision  # noqa: F401 (registers the operator; torchvision.ops.roi_align may compile another one)

        plain = rois if odd is None else rois.masked_fill((odd.broken | odd.empty | odd.large)[:, None], 0)
        pooled = torch.ops.torchvision.roi_align(
            x_BCHW, plain, spatial_scale, aligned_height, aligned_width, sampling_ratio, bool(aligned)
        )
        if odd is not None:
            pooled[odd.empty] = 0
            pooled[odd.large] = _mean_of_large(x_BCHW, *_part(odd.large, rois, rows, columns))
    else:
        if odd is not None:
            rois = rois.masked_fill(odd.broken[:, None], 0)
            rows, columns = axes(rois, aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
        pooled, best_row, best_column = _largest(x_BCHW, rois, rows, columns)
        argmax_y.copy_(best_row)
        argmax_x.copy_(best_column)
    if odd is not None:
        pooled[odd.broken] = float('nan')
    output.copy_(pooled)


def roi_align_backward(
    grad_output,
    rois,
    argmax_y,
    argmax_x,
    grad_input,
    aligned_height,
    aligned_width,
    spatial_scale,
    sampling_ratio,
    pool_mode,
    aligned,
):
    """Gradient of :func:`roi_align_forward` to ``input``; adds to ``grad_input``.

    Args:
        grad_output: gradient of ``output``, (N, channels, aligned_height, aligned_width).
        rois, argmax_y, argmax_x: as given to and written by the forward.
        grad_input: added to, (batch, channels, height, width).
        aligned_height, aligned_width, spatial_scale, sampling_ratio, pool_mode, aligned: as in the forward.
    """
    dtype = compute_dtype(grad_output.dtype)
    grad, rois = grad_output.to(dtype), rois.to(dtype)
    rows, columns = axes(rois, aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
    odd = find_odd(rois, rows, columns, grad_input.shape)
    if pool_mode == 1:
        import torchvision  # noqa: F401 (registers the operator)

        plain, plain_grad = rois, grad
        if odd is not None:
            replaced = odd.broken | odd.empty | odd.large
            plain = rois.masked_fill(replaced[:, None], 0)
            plain_grad = grad.masked_fill(replaced[:, None, None, None], 0)
            _spread_mean_of_large(grad[odd.large], grad_input, *_part(odd.large, rois, rows, columns))
        grad_input += torch.ops.torchvision._roi_align_backward(
            plain_grad,
            plain,
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            bool(aligned),
        )
        return

    y, x = rows.at(argmax_y.double()), columns.at(argmax_x.double())
    pixels, inside = corners(rois, y, x, grad_input.shape, dtype)
    inside = inside & (argmax_y >= 0)
    total = grad.new_zeros(grad_input.numel())
    for index, (y_weight, x_weight), _ in pixels:
        total.index_add_(0, index.flatten(), (grad * (y_weight * x_weight)).where(inside, 0).flatten())
    grad_input += total.view_as(grad_input)


def _largest(x_BCHW, rois, rows, columns):
    """Return the largest sample of each bin, and its row and column inside of the bin."""
    flat = x_BCHW.flatten()
    shape = (len(rois), x_BCHW.shape[1], rows.bin.numel(), columns.bin.numel())
    best = x_BCHW.new_zeros(shape)
    best_row, best_column = torch.full_like(best, -1), torch.full_like(best, -1)
    for has, row, column, y, x, exists in each_sample(rows, columns, x_BCHW.shape[2:]):
        pixels, inside = corners(rois[has], y, x, x_BCHW.shape, best.dtype)
        value = sum(flat[index] * (y_weight * x_weight) for index, (y_weight, x_weight), _ in pixels).where(inside, 0)
        # The first sample always wins, then the larger; NaN beats all, it must not vanish in a comparison.
        wins = exists & ((best_row[has] < 0) | (value > best[has]) | value.isnan())
        best[has] = value.where(wins, best[has])
        best_row[has] = row.to(best.dtype).where(wins, best_row[has])
        best_column[has] = column.to(best.dtype).where(wins, best_column[has])
    return best, best_row, best_column


# The mean of the samples of a bin is the product of two matrices with the map, one for the rows, one for the columns.
# This takes no more time for a larger RoI, as only samples in the map count.


def _mean_of_large(x_BCHW, rois, rows, columns):
    row_weights, column_weights = (
        _mean_weights(axis, size).to(x_BCHW.dtype) for axis, size in zip((rows, columns), x_BCHW.shape[2:], strict=True)
    )
    pooled = x_BCHW.new_zeros(len(rois), x_BCHW.shape[1], row_weights.shape[1], column_weights.shape[1])
    for image in rois[:, 0].unique().long().tolist():
        of_image = rois[:, 0].long() == image
        pooled[of_image] = torch.einsum(
            'nph,chw,nqw->ncpq', row_weights[of_image], x_BCHW[image], column_weights[of_image]
        )
    return pooled


def _spread_mean_of_large(grad, grad_input, rois, rows, columns):
    row_weights, column_weights = (
        _mean_weights(axis, size).to(grad.dtype)
        for axis, size in zip((rows, columns), grad_input.shape[2:], strict=True)
    )
    for image in rois[:, 0].unique().long().tolist():
        of_image = rois[:, 0].long() == image
        grad_input[image] += torch.einsum(
            'nph,ncpq,nqw->chw', row_weights[of_image], grad[of_image], column_weights[of_image]
        )


def _mean_weights(axis, size):
    """Return the weight of each pixel along one side in the mean of each bin, (N, bins, size)."""
    first, count = (part.flatten(1) for part in axis.near(size))
    axis = axis._replace(start=axis.start.flatten(1), bin=axis.bin.flatten(), bin_size=axis.bin_size.flatten(1))
    axis = axis._replace(samples=axis.samples.flatten(1))
    weights = first.new_zeros(*first.shape, size)
    for i in range(int(count.max()) if count.numel() else 0):
        position = axis.at(first + i)
        counts = (count > i) & (position >= -1) & (position <= size)
        position = position.where(counts, 0).clamp(0, size - 1)
        low = position.long()
        high_weight = (position - low).where(counts, 0)
        low_weight = (low + 1 - position).where(counts, 0)
        weights.scatter_add_(2, low[..., None], low_weight[..., None])
        weights.scatter_add_(2, (low + 1).clamp(max=size - 1)[..., None], high_weight[..., None])
    return weights / axis.samples[..., None]


def _part(chosen, rois, *both):
    """Return the chosen RoIs and their axes."""
    parts = (
        axis._replace(start=axis.start[chosen], bin_size=axis.bin_size[chosen], samples=axis.samples[chosen])
        for axis in both
    )
    return rois[chosen], *parts
