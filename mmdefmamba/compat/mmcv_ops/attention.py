"""Attention of deformable transformers, which mmcv sends to its compiled operators for tensors on a GPU."""

import torch

from .dtypes import promoted

__all__ = ['ms_deform_attn_backward', 'ms_deform_attn_forward']


def ms_deform_attn_forward(
    value, value_spatial_shapes, value_level_start_index, sampling_locations, attention_weights, im2col_step
):
    """Weighted sum of bilinear samples of several maps.

    Args:
        value: the maps one after the other, any float type, (batch, tokens, heads, channels).
        value_spatial_shapes: height and width of each map, integers, (levels, 2).
        value_level_start_index, im2col_step: not used.
        sampling_locations: (x, y), from 0 at the left or upper border of a map to 1 at the other,
            (batch, queries, heads, levels, points, 2). Pixels outside of a map are 0.
        attention_weights: (batch, queries, heads, levels, points).

    Returns:
        (batch, queries, heads * channels), in the type of ``value``.

    Source: the call contract of ``MultiScaleDeformableAttnFunction`` of mmcv; Deformable DETR, section 4.1.
    """
    tensors = promoted(value, sampling_locations, attention_weights)
    return _attend(*tensors, value_spatial_shapes.tolist()).to(value.dtype)


def ms_deform_attn_backward(
    value,
    value_spatial_shapes,
    value_level_start_index,
    sampling_locations,
    attention_weights,
    grad_output,
    grad_value,
    grad_sampling_loc,
    grad_attn_weight,
    im2col_step,
):
    """Gradients of :func:`ms_deform_attn_forward`; adds to ``grad_value``, ``grad_sampling_loc``, ``grad_attn_weight``.

    Args:
        grad_output: gradient of the output, (batch, queries, heads * channels).

    The other arguments are those of the forward.
    """
    tensors = [t.detach().requires_grad_() for t in promoted(value, sampling_locations, attention_weights)]
    with torch.enable_grad():  # computed again: to keep what the gradient needs would take much memory
        output = _attend(*tensors, value_spatial_shapes.tolist())
    gradients = torch.autograd.grad(output, tensors, grad_output.to(output.dtype))
    for total, part in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients, strict=True):
        total += part


def _attend(value, locations, weights, shapes):
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch  # here: mmcv.ops loads this module

    # A sample whose position in pixels is -1 or less, or the size or more, does not count in mmcv's kernel, and has no
    # gradient. grid_sample gives the slope at exactly -1.
    size = torch.tensor(shapes, dtype=locations.dtype, device=locations.device).flip(1)[:, None]
    position = locations.detach() * size - 0.5
    outside = ((position <= -1) | (position >= size)).any(-1, keepdim=True)
    return multi_scale_deformable_attn_pytorch(value, shapes, locations.masked_fill(outside, -1), weights)
