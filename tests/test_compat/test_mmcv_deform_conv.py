"""mmcv's deformable convolutions, compared with a loop over samples in NumPy that also gives the gradients."""

import numpy as np
import pytest
import torch

import mmdefmamba  # noqa: F401  mends mmcv


def sample(plane, y, x):
    """Return the value at (y, x), the weight of each pixel in it, and the slopes of the value along y and x."""
    height, width = plane.shape
    weights = np.zeros((3, height, width))
    if not (-1 < y < height and -1 < x < width):
        return 0, weights[0], 0, 0
    low_y, low_x = int(np.floor(y)), int(np.floor(x))
    for row, weight_y, slope_y in ((low_y, low_y + 1 - y, -1), (low_y + 1, y - low_y, 1)):
        for column, weight_x, slope_x in ((low_x, low_x + 1 - x, -1), (low_x + 1, x - low_x, 1)):
            if 0 <= row < height and 0 <= column < width:
                weights[:, row, column] = weight_y * weight_x, slope_y * weight_x, weight_y * slope_x
    value, slope_y, slope_x = ((plane * part).sum() for part in weights)
    return value, weights[0], slope_y, slope_x


def numpy_deform_conv(x, offset, mask, weight, grad_output, stride, pad, dilation, groups, offset_groups):
    """Return output and gradients of x, offset, mask, weight, kernel element by kernel element."""
    batch, channels = x.shape[:2]
    outs, per_group, kh, kw = weight.shape
    output = np.zeros(grad_output.shape)
    grads = [np.zeros(value.shape) for value in (x, offset, mask, weight)]
    for n, out, row, column, c, i, j in np.ndindex(batch, outs, *output.shape[2:], per_group, kh, kw):
        channel = out // (outs // groups) * per_group + c
        element = channel // (channels // offset_groups) * kh * kw + i * kw + j
        at = (n, 2 * element, row, column), (n, 2 * element + 1, row, column)
        y = row * stride[0] - pad[0] + i * dilation[0] + offset[at[0]]
        x_ = column * stride[1] - pad[1] + j * dilation[1] + offset[at[1]]
        value, pixels, slope_y, slope_x = sample(x[n, channel], y, x_)
        factor, m, g = weight[out, c, i, j], mask[n, element, row, column], grad_output[n, out, row, column]
        output[n, out, row, column] += factor * m * value
        grads[0][n, channel] += g * factor * m * pixels
        grads[1][at[0]] += g * factor * m * slope_y
        grads[1][at[1]] += g * factor * m * slope_x
        grads[2][n, element, row, column] += g * factor * value
        grads[3][out, c, i, j] += g * m * value
    return [output, *grads]


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# stride, padding, dilation, groups, offset groups
GEOMETRIES = [
    ((1, 1), (1, 1), (1, 1), 1, 1),
    ((2, 1), (0, 2), (1, 2), 2, 1),
    ((1, 2), (2, 1), (2, 1), 1, 2),
]


def case(geometry):
    """Return x, offset, mask, weight and the gradient of the output for a kernel of 3 x 2."""
    stride, pad, dilation, groups, offset_groups = geometry
    x, weight = random(2, 4, 6, 5), random(2, 4 // groups, 3, 2, seed=1)
    size = [
        (x.shape[2 + d] + 2 * pad[d] - dilation[d] * (weight.shape[2 + d] - 1) - 1) // stride[d] + 1 for d in (0, 1)
    ]
    offset = random(2, offset_groups * 12, *size, seed=2) * 2
    # whole numbers put many samples at exactly -1, at the size and on pixels
    offset = np.where(random(*offset.shape, seed=3) > 0.5, np.round(offset), offset)
    return x, offset, random(2, offset_groups * 6, *size, seed=4), weight, random(2, 2, *size, seed=5)


def tensors(*arrays, dtype=torch.float64):
    return [torch.tensor(array, dtype=dtype, requires_grad=True) for array in arrays]


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
def test_deform_conv_matches_numpy_reference(geometry):
    from mmcv.ops import deform_conv2d

    x, offset, mask, weight, grad_output = case(geometry)
    expected = numpy_deform_conv(x, offset, np.ones_like(mask), weight, grad_output, *geometry)
    x, offset, weight = tensors(x, offset, weight)
    output = deform_conv2d(x, offset, weight, *geometry)
    output.backward(torch.tensor(grad_output))
    for got, want in zip((output, x.grad, offset.grad, weight.grad), expected[:3] + expected[4:], strict=True):
        np.testing.assert_allclose(got.detach(), want, atol=1e-12)


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
def test_modulated_deform_conv_matches_numpy_reference(geometry):
    from mmcv.ops import modulated_deform_conv2d

    *arrays, grad_output = case(geometry)
    expected = numpy_deform_conv(*arrays, grad_output, *geometry)
    bias = random(2, seed=6)
    x, offset, mask, weight, bias = tensors(*arrays, bias)
    output = modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry)
    output.backward(torch.tensor(grad_output))
    got = (output - bias[:, None, None], x.grad, offset.grad, mask.grad, weight.grad, bias.grad)
    for value, want in zip(got, [*expected, grad_output.sum((0, 2, 3))], strict=True):
        np.testing.assert_allclose(value.detach(), want, atol=1e-12)


@pytest.mark.parametrize('which', [(True, False, False), (False, False, True), (False, True, True)], ids=str)
def test_only_gradients_that_are_asked_for_are_given(which):
    from mmcv.ops import deform_conv2d

    geometry = GEOMETRIES[0]
    x, offset, mask, weight, grad_output = case(geometry)
    expected = numpy_deform_conv(x, offset, np.ones_like(mask), weight, grad_output, *geometry)
    inputs = [torch.tensor(v, requires_grad=wanted) for v, wanted in zip((x, offset, weight), which, strict=True)]
    output = deform_conv2d(*inputs, *geometry)
    for _ in range(2):  # a graph may be used again
        output.backward(torch.tensor(grad_output), retain_graph=True)
    for value, want, wanted in zip(inputs, (expected[1], expected[2], expected[4]), which, strict=True):
        assert (value.grad is not None) == wanted
        if wanted:
            np.testing.assert_allclose(value.grad, 2 * want, atol=1e-12)


def test_gradient_of_a_sample_at_exactly_minus_one_is_zero():
    """The slope is that of the map on the right, 3, an instant later."""
    from mmcv.ops import deform_conv2d

    x, weight = torch.tensor([[[[3.0]]]]), torch.ones(1, 1, 1, 1)
    for place, slope in ((-1.0, 0), (-0.999, 3), (0.5, -3), (1.0, 0)):
        offset = torch.tensor([0, place]).view(1, 2, 1, 1).requires_grad_()
        deform_conv2d(x, offset, weight).sum().backward()
        assert offset.grad[0, 1].item() == slope


def test_offsets_larger_than_the_output_are_read_in_the_order_of_memory():
    """DyHead convolves a smaller map with the offsets of a larger one."""
    from mmcv.ops import modulated_deform_conv2d

    x, offset, mask, weight = (
        random(2, 3, 4, 4),
        random(2, 18, 6, 7, seed=1),
        random(2, 9, 6, 7, seed=2),
        random(1, 3, 3, 3),
    )
    read = [
        np.stack([image.ravel()[: c * 16].reshape(c, 4, 4) for image in values])
        for values, c in ((offset, 18), (mask, 9))
    ]
    grad_output = random(2, 1, 4, 4, seed=3)
    expected = numpy_deform_conv(x, *read, weight, grad_output, (1, 1), (1, 1), (1, 1), 1, 1)
    inputs = tensors(x, offset, mask, weight)
    output = modulated_deform_conv2d(*inputs, None, 1, 1)
    output.backward(torch.tensor(grad_output))
    np.testing.assert_allclose(output.detach(), expected[0], atol=1e-12)
    for value, want in zip(inputs[1:3], expected[2:4], strict=True):
        flat = value.grad.flatten(1)
        count = want[0].size
        np.testing.assert_allclose(flat[:, :count], want.reshape(2, -1), atol=1e-12)
        assert not flat[:, count:].any()


def test_offsets_smaller_than_the_output_are_refused():
    from mmcv.ops import modulated_deform_conv2d

    x, weight = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 3, 3)
    with pytest.raises(ValueError, match=r'offset .* at least \(1, 18, 4, 4\).* got \(1, 18, 2, 2\)'):
        modulated_deform_conv2d(x, torch.zeros(1, 18, 2, 2), torch.zeros(1, 9, 4, 4), weight, None, 1, 1)
    with pytest.raises(ValueError, match=r'mask .* got \(1, 9, 3, 4\)'):
        modulated_deform_conv2d(x, torch.zeros(1, 18, 4, 4), torch.zeros(1, 9, 3, 4), weight, None, 1, 1)


@pytest.mark.parametrize('value', [float('inf'), -float('inf'), 1e30, -1e30, 3e9], ids=str)
def test_an_offset_out_of_all_bounds_reads_zero(value):
    from mmcv.ops import deform_conv2d

    offset = torch.zeros(1, 2, 1, 2)
    offset[0, 0, 0, 0] = value
    inputs = [torch.ones(1, 1, 1, 2), offset, torch.ones(1, 1, 1, 1)]
    for tensor in inputs:
        tensor.requires_grad_()
    output = deform_conv2d(*inputs)
    output.sum().backward()
    assert output.flatten().tolist() == [0, 1]
    assert inputs[0].grad.flatten().tolist() == [0, 1]
    assert inputs[1].grad[0, :, 0, 0].tolist() == [0, 0]


def test_nan_in_an_offset_is_not_hidden():
    from mmcv.ops import deform_conv2d

    offset = torch.zeros(1, 2, 1, 3)
    offset[0, 1, 0, 1] = float('nan')
    output = deform_conv2d(torch.ones(1, 1, 1, 3), offset, torch.ones(2, 1, 1, 1))
    assert output.isnan()[0, :, 0].tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_rounds_only_the_result(dtype):
    from mmcv.ops import modulated_deform_conv2d

    geometry = GEOMETRIES[2]
    *inputs, grad_output = (torch.tensor(array).to(dtype) for array in case(geometry))
    expected = numpy_deform_conv(*(t.double().numpy() for t in (*inputs, grad_output)), *geometry)
    for tensor in inputs:
        tensor.requires_grad_()
    output = modulated_deform_conv2d(*inputs, None, *geometry)
    output.backward(grad_output)
    assert output.dtype == dtype
    tolerance = dict(rtol=torch.finfo(dtype).eps, atol=1e-5)
    for value, want in zip((output, *(t.grad for t in inputs)), expected, strict=True):
        np.testing.assert_allclose(value.detach().double(), want, **tolerance)


@pytest.mark.parametrize('version', ['DCN', 'DCNv2'])
def test_packed_layers_train(version):
    from mmcv.cnn import build_conv_layer

    torch.manual_seed(0)
    layer = build_conv_layer(dict(type=version, deform_groups=2), 4, 6, 3, padding=1)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.2)
    layer(torch.randn(2, 4, 5, 7)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() and p.grad.isfinite().all() for p in layer.parameters())


def test_learning_rate_of_offsets_is_that_of_the_config():
    """MMEngine looks for deformable convolutions only where mmcv has operators."""
    from mmcv.ops import DeformConv2dPack
    from mmengine.optim import build_optim_wrapper

    model = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), DeformConv2dPack(2, 2, 3))
    optimizer = dict(type='SGD', lr=0.5)
    wrapper = build_optim_wrapper(model, dict(optimizer=optimizer, paramwise_cfg=dict(dcn_offset_lr_mult=0.1)))
    rates = {id(group['params'][0]): group['lr'] for group in wrapper.param_groups}
    rates = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    slow = {'1.conv_offset.weight': 0.05, '1.conv_offset.bias': 0.05}
    assert rates == {'0.weight': 0.5, '0.bias': 0.5, '1.weight': 0.5, **slow}
