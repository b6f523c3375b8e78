"""Deformable convolution, plain (DCN) and modulated (DCNv2), on torchvision's kernels.

torchvision's kernels mean the same as mmcv's but for these points, which this module takes care of:

- The gradient of an offset that puts a sample at exactly -1, where the map begins to count, is 0 in mmcv.
- The modulated convolution of mmcv does not compare the height and width of offsets and masks with those of the output.
  It reads their memory as if they had the size of the output. DyHead relies on this.
- torchvision's kernels read outside of the map where an offset is NaN. Here the output is NaN there. mmcv gives 0.
"""

from typing import NamedTuple

import torch

from .dtypes import promoted

__all__ = [
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
]

#: An offset in pixels that leads out of every map, and that fits into the integers of the kernels.
_FAR = 1e9


class _Geometry(NamedTuple):
    """The numbers of a convolution, in the order in which torchvision takes them."""

    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    groups: int
    offset_groups: int


def deform_conv_forward(
    input,
    weight,
    offset,
    output,
    columns,
    ones,
    kW,
    kH,
    dW,
    dH,
    padW,
    padH,
    dilationW,
    dilationH,
    group,
    deformable_group,
    im2col_step,
):
    """Convolve with displaced samples; writes ``output``.

    Args:
        input: any float type, (batch, channels, height, width).
        weight: (out channels, channels / group, kH, kW).
        offset: (y, x) of each sample of each kernel element, in pixels,
            (batch, deformable_group * kH * kW * 2, out height, out width).
        output: written, (batch, out channels, out height, out width).
        columns: an empty tensor. The backward passes hand a result over in it.
        ones, kW, kH, im2col_step: not used.
        dW, dH, padW, padH, dilationW, dilationH: strides, paddings and dilations.
        group: number of groups of channels that are convolved separately.
        deformable_group: number of groups of channels that have offsets of their own.

    Source: the call contract of ``mmcv.ops.deform_conv2d``; Deformable Convolutional Networks, section 2.1.
    """
    geometry = _Geometry(dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_convolve(input, weight, offset, None, None, geometry))


def deform_conv_backward_input(
    input,
    offset,
    gradOutput,
    gradInput,
    gradOffset,
    weight,
    columns,
    kW,
    kH,
    dW,
    dH,
    padW,
    padH,
    dilationW,
    dilationH,
    group,
    deformable_group,
    im2col_step,
):
    """Gradients of :func:`deform_conv_forward`; adds to ``gradInput`` and ``gradOffset``.

    Args:
        gradOutput: gradient of ``output``, contiguous.
        gradInput, gradOffset: added to; shapes of ``input`` and ``offset``.
        columns: written: the gradient of ``weight``, for :func:`deform_conv_backward_parameters`, which mmcv calls
            next. torchvision computes all gradients at once.

    The other arguments are those of the forward.
    """
    geometry = _Geometry(dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grad_input, grad_weight, grad_offset, _, _ = _gradients(gradOutput, input, weight, offset, None, geometry)
    gradInput += grad_input
    gradOffset += grad_offset
    columns.resize_(grad_weight.shape).copy_(grad_weight)


def deform_conv_backward_parameters(
    input,
    offset,
    gradOutput,
    gradWeight,
    columns,
    ones,
    kW,
    kH,
    dW,
    dH,
    padW,
    padH,
    dilationW,
    dilationH,
    group,
    deformable_group,
    scale,
    im2col_step,
):
    """Gradient of :func:`deform_conv_forward` to ``weight``, times ``scale``; adds it to ``gradWeight``."""
    if columns.shape != gradWeight.shape:  # neither the input nor the offset needs a gradient
        geometry = _Geometry(dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
        columns = _gradients(gradOutput, input, torch.zeros_like(gradWeight), offset, None, geometry)[1]
    gradWeight += scale * columns


def modulated_deform_conv_forward(
    input,
    weight,
    bias,
    ones,
    offset,
    mask,
    output,
    columns,
    kernel_h,
    kernel_w,
    stride_h,
    stride_w,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    group,
    deformable_group,
    with_bias,
):
    """Convolve with displaced samples that have weights; writes ``output``.

    Args:
        input: any float type, (batch, channels, height, width).
        weight: (out channels, channels / group, kernel_h, kernel_w).
        bias: (out channels,) if ``with_bias``.
        offset: (y, x) of each sample of each kernel element, in pixels,
            (batch, deformable_group * kernel_h * kernel_w * 2, out height, out width).
        mask: the weight of each sample, (batch, deformable_group * kernel_h * kernel_w, out height, out width).
            ``offset`` and ``mask`` may have more rows or columns than the output. The numbers of an image are then
            taken in the order of memory, as if the first of them had the size of the output.
        output: written, (batch, out channels, out height, out width).
        ones, columns: not used.
        stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w: strides, paddings and dilations.
        group: number of groups of channels that are convolved separately.
        deformable_group: number of groups of channels that have offsets and masks of their own.

    Raises:
        ValueError: ``offset`` or ``mask`` has fewer numbers than the output needs.

    Source: the call contract of ``mmcv.ops.modulated_deform_conv2d``; Deformable ConvNets v2, section 3.2.
    """
    geometry = _Geometry(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    samples = deformable_group * kernel_h * kernel_w
    offset = _as_large_as(output, offset, 2 * samples, 'offset')
    mask = _as_large_as(output, mask, samples, 'mask')
    output.copy_(_convolve(input, weight, offset, mask, bias if with_bias else None, geometry))


def modulated_deform_conv_backward(
    input,
    weight,
    bias,
    ones,
    offset,
    mask,
    columns,
    grad_input,
    grad_weight,
    grad_bias,
    grad_offset,
    grad_mask,
    grad_output,
    kernel_h,
    kernel_w,
    stride_h,
    stride_w,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    group,
    deformable_group,
    with_bias,
):
    """Gradients of :func:`modulated_deform_conv_forward`; adds to the tensors ``grad_*`` but ``grad_output``."""
    geometry = _Geometry(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    samples = deformable_group * kernel_h * kernel_w
    offset = _as_large_as(grad_output, offset, 2 * samples, 'offset')
    mask = _as_large_as(grad_output, mask, samples, 'mask')
    gradients = _gradients(grad_output, input, weight, offset, mask, geometry)
    grad_input += gradients[0]
    grad_weight += gradients[1]
    for total, part in ((grad_offset, gradients[2]), (grad_mask, gradients[3])):
        part = part.flatten(1)
        total.view(len(total), -1)[:, : part.shape[1]] += part
    if with_bias:
        grad_bias += gradients[4]


def _convolve(input, weight, offset, mask, bias, geometry):
    import torchvision  # noqa: F401 (registers the operator; here, because the import takes a second)

    tensors = _tensors(input, weight, offset, mask, bias)
    output = torch.ops.torchvision.deform_conv2d(*tensors, *geometry, mask is not None)
    return output.masked_fill_(offset.isnan().any(1, keepdim=True), float('nan'))


def _gradients(grad_output, input, weight, offset, mask, geometry):
    """Return the gradients of input, weight, offset, mask and bias."""
    import torchvision  # noqa: F401 (registers the operator)

    tensors = _tensors(input, weight, offset, mask, None)
    gradients = list(
        torch.ops.torchvision._deform_conv2d_backward(
            grad_output.to(tensors[0].dtype).contiguous(), *tensors, *geometry, mask is not None
        )
    )
    outside = _outside(tensors[2], input.shape[2:], weight.shape[2:], geometry)
    by_sample = gradients[2].view(*outside.shape[:3], 2, *outside.shape[3:])
    gradients[2] = by_sample.masked_fill(outside.unsqueeze(3), 0).view_as(offset)
    return gradients


def _tensors(input, weight, offset, mask, bias):
    """Return what torchvision takes: five tensors of one type, finite offsets, empty masks and zero biases."""
    mask = input.new_zeros(len(input), 1) if mask is None else mask
    bias = input.new_zeros(len(weight)) if bias is None else bias
    input, weight, offset, mask, bias = promoted(input, weight, offset, mask, bias)
    return input, weight, offset.nan_to_num(nan=-_FAR).clamp(-_FAR, _FAR), mask, bias


def _outside(offset, size, kernel_size, geometry):
    """Return which samples do not count, (batch, offset groups, kernel elements, out height, out width)."""
    batch, _, height, width = offset.shape
    offset = offset.view(batch, geometry.offset_groups, -1, 2, height, width)
    outside = torch.zeros_like(offset[:, :, :, 0], dtype=torch.bool)
    settings = (geometry[0::2][:3], geometry[1::2][:3])  # of the rows and of the columns
    for axis, (stride, pad, dilation) in enumerate(settings):
        elements = torch.arange(kernel_size[axis], device=offset.device) * dilation - pad
        elements = elements.view((-1, 1) if axis == 0 else (1, -1)).expand(kernel_size).reshape(-1, 1, 1)
        places = torch.arange(offset.shape[4 + axis], device=offset.device) * stride
        position = offset[:, :, :, axis] + (elements + (places[:, None] if axis == 0 else places))
        outside = outside | (position <= -1) | (position >= size[axis])
    return outside


def _as_large_as(output, values, channels, name):
    """Return the first numbers of each image as (batch, channels, out height, out width)."""
    batch, height, width = len(output), *output.shape[2:]
    if values.shape == (batch, channels, height, width):
        return values
    needed = channels * height * width
    if len(values) != batch or values[0].numel() < needed:
        raise ValueError(
            f'{name} of a modulated deformable convolution must hold at least ({batch}, {channels}, {height}, {width}) '
            f'numbers, the size of the output, got {tuple(values.shape)}'
        )
    return values.reshape(batch, -1)[:, :needed].reshape(batch, channels, height, width)
