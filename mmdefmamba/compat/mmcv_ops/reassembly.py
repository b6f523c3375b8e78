"""Operators that put the pixels of a map together in another way: CARAFE, the masks of PSANet, masked convolution."""

import torch
import torch.nn.functional as F

from .dtypes import promoted

__all__ = [
    'carafe_backward',
    'carafe_forward',
    'carafe_naive_backward',
    'carafe_naive_forward',
    'masked_col2im_forward',
    'masked_im2col_forward',
    'psamask_backward',
    'psamask_forward',
]


def carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor):
    """Enlarge a map: each new pixel is a weighted sum of the window around its old pixel; writes ``output``.

    Args:
        features: any float type, (batch, channels, height, width). Pixels outside of the map are 0.
        masks: the weights, (batch, group_size * kernel_size^2, height * scale_factor, width * scale_factor).
        output: written, (batch, channels, height * scale_factor, width * scale_factor).
        kernel_size: height and width of the window, odd.
        group_size: number of groups of channels that have weights of their own.
        scale_factor: new pixels per old pixel, along each side.

    Source: the call contract of ``mmcv.ops.carafe_naive``; CARAFE, section 3.2.
    """
    windows, weights = _windows_and_weights(features, masks, kernel_size, group_size, scale_factor)
    output.copy_(torch.einsum('ngckhw,ngkhiwj->ngchiwj', windows, weights).reshape(output.shape))


def carafe_naive_backward(
    grad_output, features, masks, grad_features, grad_masks, kernel_size, group_size, scale_factor
):
    """Gradients of :func:`carafe_naive_forward`; adds to ``grad_features`` and ``grad_masks``.

    Args:
        grad_output: gradient of ``output``, contiguous.

    The other arguments are those of the forward.
    """
    windows, weights = _windows_and_weights(features, masks, kernel_size, group_size, scale_factor)
    batch, groups, _, _, height, width = windows.shape
    grad = grad_output.to(windows.dtype).reshape(batch, groups, -1, height, scale_factor, width, scale_factor)
    grad_masks += torch.einsum('ngckhw,ngchiwj->ngkhiwj', windows, grad).reshape(grad_masks.shape)
    columns = torch.einsum('ngchiwj,ngkhiwj->ngckhw', grad, weights).reshape(batch, -1, height * width)
    grad_features += F.fold(columns, (height, width), kernel_size, padding=kernel_size // 2)


def carafe_forward(features, masks, rfeatures, routput, rmasks, output, kernel_size, group_size, scale_factor):
    """Do what :func:`carafe_naive_forward` does; also write ``rfeatures``, which the backward gets for ``features``.

    Args:
        rfeatures: written, shape of ``features``.
        routput, rmasks: not used.

    The other arguments are those of :func:`carafe_naive_forward`.
    """
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)
    rfeatures.copy_(features)


def carafe_backward(
    grad_output,
    rfeatures,
    masks,
    rgrad_output,
    rgrad_input_hs,
    rgrad_input,
    rgrad_masks,
    grad_input,
    grad_masks,
    kernel_size,
    group_size,
    scale_factor,
):
    """Gradients of :func:`carafe_forward`; adds to ``grad_input`` and ``grad_masks``.

    Args:
        rfeatures: as written by the forward.
        rgrad_output, rgrad_input_hs, rgrad_input, rgrad_masks: not used.

    The other arguments are those of :func:`carafe_naive_backward`.
    """
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input, grad_masks, kernel_size, group_size, scale_factor)


def _windows_and_weights(features, masks, kernel_size, group_size, scale_factor):
    """Return the windows, (batch, group, channel, k, height, width), and weights, (batch, group, k, h, i, w, j)."""
    features, masks = promoted(features, masks)
    batch, _, height, width = features.shape
    elements = kernel_size**2
    windows = F.unfold(features, kernel_size, padding=kernel_size // 2)
    windows = windows.view(batch, group_size, -1, elements, height, width)
    return windows, masks.reshape(batch, group_size, elements, height, scale_factor, width, scale_factor)


def masked_im2col_forward(im, mask_h_idx, mask_w_idx, col, kernel_h, kernel_w, pad_h, pad_w):
    """Read the windows around some pixels of one map; writes ``col``.

    Args:
        im: any float type, (1, channels, height, width). Pixels outside of the map are 0.
        mask_h_idx, mask_w_idx: row and column of each window in the output of a convolution with stride 1, (M,).
        col: written, (channels * kernel_h * kernel_w, M).
        kernel_h, kernel_w, pad_h, pad_w: size of the windows, and padding.

    Source: the call contract of ``mmcv.ops.masked_conv2d``.
    """
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    rows = mask_h_idx[:, None, None] + torch.arange(kernel_h, device=im.device)[:, None]
    columns = mask_w_idx[:, None, None] + torch.arange(kernel_w, device=im.device)
    # the mask has the size of the map, the output may be smaller: such windows are refused by masked_col2im_forward
    windows = padded[:, rows.clamp(max=padded.shape[1] - 1), columns.clamp(max=padded.shape[2] - 1)]
    col.copy_(windows.permute(0, 2, 3, 1).reshape(col.shape))


def masked_col2im_forward(col, mask_h_idx, mask_w_idx, im, height, width, channels):
    """Write the results of a masked convolution to their places; writes ``im``.

    Args:
        col: (channels, M).
        mask_h_idx, mask_w_idx: row and column of each result, (M,).
        im: written at these places, (1, channels, height, width).

    Raises:
        ValueError: a place lies outside of ``im``.
    """
    outside = (mask_h_idx >= height) | (mask_w_idx >= width)
    if outside.any():
        row, column = int(mask_h_idx[outside][0]), int(mask_w_idx[outside][0])
        raise ValueError(
            f'the mask of a masked convolution selects row {row}, column {column}, but the output has {height} x '
            f'{width} pixels: pad by half the kernel size, or leave the border out of the mask'
        )
    im[0, :, mask_h_idx, mask_w_idx] = col


def psamask_forward(input, output, psa_type, num_, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask):
    """Turn the attention of each pixel to a window around it into attention between all pixels; writes ``output``.

    Args:
        input: for each pixel the attention to its window, (batch, h_mask * w_mask, h_feature, w_feature).
        output: written, (batch, h_feature * w_feature, h_feature, w_feature). Pixels out of the window get 0.
        psa_type: 0 'collect': the first axis is the pixel that is attended to. 1 'distribute': it is the pixel that
            attends.
        num_: not used.
        half_h_mask, half_w_mask: row and column of a window where its own pixel lies.

    Source: the call contract of ``mmcv.ops.psa_mask``; PSANet, section 3.3.
    """
    rows = _places_in_window(h_feature, h_mask, half_h_mask, input.device)
    columns = _places_in_window(w_feature, w_mask, half_w_mask, input.device)
    windows_nabhw = input.reshape(-1, h_mask, w_mask, h_feature, w_feature)
    attention_nyhbw = _take(windows_nabhw.permute(0, 1, 3, 2, 4), rows)
    attention_nxwyh = _take(attention_nyhbw.permute(0, 3, 4, 1, 2), columns)
    order = (0, 3, 1, 4, 2) if psa_type == 0 else (0, 4, 2, 3, 1)
    output.copy_(attention_nxwyh.permute(order).reshape(output.shape))


def psamask_backward(
    grad_output, grad_input, psa_type, num_, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask
):
    """Gradient of :func:`psamask_forward`; writes ``grad_input``.

    Args:
        grad_output: gradient of ``output``.
        grad_input: written, shape of ``input``.

    The other arguments are those of the forward.
    """
    rows = _places_in_map(h_feature, h_mask, half_h_mask, grad_output.device)
    columns = _places_in_map(w_feature, w_mask, half_w_mask, grad_output.device)
    attention = grad_output.reshape(-1, h_feature, w_feature, h_feature, w_feature)
    attention_nxwyh = attention.permute((0, 2, 4, 1, 3) if psa_type == 0 else (0, 4, 2, 3, 1))
    windows_nbwyh = _take(attention_nxwyh, columns)
    windows_nahbw = _take(windows_nbwyh.permute(0, 3, 4, 1, 2), rows)
    grad_input.copy_(windows_nahbw.permute(0, 1, 3, 2, 4).reshape(grad_input.shape))


# The letters of the axes: n image; h, w the pixel in the middle of a window; y, x another pixel of the map; a, b the
# place of that pixel in the window.


def _places_in_window(size, window, half, device):
    """Return a, for each pair (y, h) along one side, (size, size); -1 where y is not in the window of h."""
    pixels = torch.arange(size, device=device)
    place = pixels[:, None] - pixels + half
    return place.where((place >= 0) & (place < window), -1)


def _places_in_map(size, window, half, device):
    """Return y, for each pair (a, h) along one side, (window, size); -1 where it is not in the map."""
    place = torch.arange(window, device=device)[:, None] + torch.arange(size, device=device) - half
    return place.where((place >= 0) & (place < size), -1)


def _take(x, places):
    """Return out[n, i, j] = x[n, places[i, j], j], or 0 where ``places`` is negative."""
    columns = torch.arange(places.shape[1], device=x.device)
    inside = (places >= 0).view(places.shape + (1,) * (x.ndim - 3))
    return x[:, places.clamp(min=0), columns].where(inside, 0)
