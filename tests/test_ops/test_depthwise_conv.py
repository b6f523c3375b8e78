"""The depthwise convolution has the values and gradients of PyTorch's, also where it computes a gradient itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmdefmamba.ops import depthwise_conv as module
from mmdefmamba.ops.depthwise_conv import depthwise_conv
from mmdefmamba.scans.deformable import OffsetNetwork, apply_depthwise

# (B, C, H, W), kernel; maps that are smaller than the kernel, rows that are no multiple of the block of rows
CASES = [
    ((2, 3, 12, 12), (5, 5)),
    ((1, 16, 17, 9), (7, 7)),
    ((3, 20, 13, 31), (9, 9)),
    ((2, 5, 1, 200), (9, 9)),
    ((2, 5, 200, 1), (9, 9)),
    ((1, 1, 16, 16), (5, 9)),
    ((2, 4, 3, 60), (11, 7)),
]
CAN_RUN = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() in ('AVX2', 'AVX512')
needs_own_gradient = pytest.mark.skipif(not CAN_RUN, reason='the own gradient is for oneDNN with AVX2 or AVX-512')


def reference(x, weight, bias=None):
    return F.conv2d(x, weight, bias, padding=tuple(size // 2 for size in weight.shape[2:]), groups=x.shape[1])


def case(shape, kernel, layout='channels_last', bias=True):
    torch.manual_seed(0)
    x = torch.randn(shape)
    if layout == 'channels_last':
        x = x.to(memory_format=torch.channels_last)
    elif layout == 'strided':
        x = torch.randn(shape[::-1]).permute(3, 2, 1, 0)
    return [x, torch.randn(shape[1], 1, *kernel), torch.randn(shape[1]) if bias else None]


def with_gradients(function, inputs, dtype=None, needed=(True, True, True)):
    inputs = [x if x is None else x.detach().to(dtype or x.dtype) for x in inputs]
    leaves = [x.requires_grad_() for x, need in zip(inputs, needed, strict=True) if need and x is not None]
    y = function(*inputs)
    torch.manual_seed(1)
    return [y, *torch.autograd.grad(y, leaves, torch.randn(y.shape).to(y))]


def assert_near(actual, expected, tolerance=2e-6):
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == torch.float32 and a.shape == e.shape
        assert (a.double() - e).abs().max() <= tolerance * e.abs().max()


@pytest.fixture
def own_gradients(monkeypatch):
    """The shapes of the maps whose gradient of the kernels this package computed."""
    shapes = []
    real = module.gradient_of_weight

    def counted(grad, x, weight):
        shapes.append(tuple(x.shape))
        return real(grad, x, weight)

    monkeypatch.setattr(module, 'gradient_of_weight', counted)
    return shapes


@needs_own_gradient
@pytest.mark.parametrize('bias', [True, False], ids=['bias', 'no bias'])
@pytest.mark.parametrize('layout', ['channels_last', 'contiguous', 'strided'])
@pytest.mark.parametrize(('shape', 'kernel'), CASES, ids=str)
def test_values_and_gradients_agree_with_float64(shape, kernel, layout, bias, own_gradients):
    inputs = case(shape, kernel, layout, bias)
    assert_near(with_gradients(depthwise_conv, inputs), with_gradients(reference, inputs, torch.float64))
    assert own_gradients == [shape]


@needs_own_gradient
@pytest.mark.parametrize('needed', [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1)], ids=str)
def test_only_the_needed_gradients_are_computed(needed, own_gradients):
    inputs = case((2, 16, 13, 14), (5, 5))
    actual = with_gradients(depthwise_conv, inputs, needed=needed)
    assert_near(actual, with_gradients(reference, inputs, torch.float64, needed))
    assert len(own_gradients) == needed[1]


@needs_own_gradient
def test_results_are_the_same_each_time(own_gradients):
    inputs = case((2, 16, 30, 14), (7, 7))
    runs = [with_gradients(depthwise_conv, inputs) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert len(own_gradients) == 2


@needs_own_gradient
def test_second_derivatives_are_those_of_torch(own_gradients):
    def second(function, inputs):
        inputs = [x.requires_grad_() for x in inputs]
        first = torch.autograd.grad(function(*inputs).pow(3).sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    inputs = case((1, 4, 13, 12), (5, 5))
    expected = second(reference, [x.detach().double() for x in inputs])
    assert_near(second(depthwise_conv, inputs), expected, 1e-5)
    assert own_gradients


@needs_own_gradient
def test_a_backward_pass_under_autocast_keeps_the_precision_of_the_forward_pass(own_gradients):
    inputs = [x.requires_grad_() for x in case((1, 4, 13, 12), (5, 5))]
    y = depthwise_conv(*inputs)
    with torch.autocast('cpu', torch.bfloat16):
        actual = torch.autograd.grad(y.sum(), inputs)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    assert_near(actual, torch.autograd.grad(reference(*exact).sum(), exact))
    assert own_gradients


def autocast(*args):
    with torch.autocast('cpu', torch.bfloat16):
        return depthwise_conv(*args)


def without_onednn(*args):
    with torch.backends.mkldnn.flags(enabled=False):
        return depthwise_conv(*args)


def as_float64(*args):
    return depthwise_conv(*[x.double() for x in args]).float()


PLAIN = {
    'float64': (as_float64, (1, 4, 13, 12), (5, 5)),
    'autocast': (autocast, (1, 4, 13, 12), (5, 5)),
    'oneDNN switched off': (without_onednn, (1, 4, 13, 12), (5, 5)),
    'torch.compile': (
        lambda *args: torch.compile(depthwise_conv, backend='aot_eager', fullgraph=True)(*args),
        (1, 4, 13, 12),
        (5, 5),
    ),
    'small kernel': (depthwise_conv, (2, 4, 13, 12), (3, 3)),
    'small map': (depthwise_conv, (2, 4, 3, 2), (9, 9)),
    'one pixel': (depthwise_conv, (2, 4, 1, 1), (9, 9)),
    'no image': (depthwise_conv, (0, 4, 13, 12), (5, 5)),
}


@pytest.mark.parametrize(('call', 'shape', 'kernel'), PLAIN.values(), ids=PLAIN)
def test_everything_else_is_computed_by_torch(call, shape, kernel, own_gradients):
    inputs = case(shape, kernel)
    tolerance = dict(atol=0.5, rtol=0.05) if call is autocast else dict(atol=2e-5, rtol=2e-5)
    for a, e in zip(with_gradients(call, inputs), with_gradients(reference, inputs), strict=True):
        torch.testing.assert_close(a.float(), e, **tolerance)
    assert own_gradients == []


def test_functional_transforms_are_those_of_torch(own_gradients):
    x, weight, bias = case((2, 4, 13, 12), (5, 5))

    def loss(weight, conv):
        return conv(x, weight, bias).square().sum()

    for transform in (torch.func.grad, torch.func.jacfwd):
        torch.testing.assert_close(
            transform(loss)(weight, depthwise_conv), transform(loss)(weight, reference), rtol=1e-4, atol=1e-2
        )
    per_image = torch.vmap(lambda image: depthwise_conv(image[None], weight, bias)[0])(x)
    torch.testing.assert_close(per_image, reference(x, weight, bias))
    assert own_gradients == []


@pytest.mark.parametrize(
    ('shape', 'kernels', 'message'),
    [
        ((4, 13, 12), (4, 1, 5, 5), r'x must be \(batch, channels, height, width\)'),
        ((2, 4, 13, 12), (3, 1, 5, 5), r'got \(2, 4, 13, 12\) and \(3, 1, 5, 5\)'),
        ((2, 4, 13, 12), (4, 4, 5, 5), r'got \(2, 4, 13, 12\) and \(4, 4, 5, 5\)'),
        ((2, 4, 13, 12), (4, 1, 4, 5), 'kernels must have odd sizes, got 4 x 5'),
    ],
)
def test_kernels_that_do_not_fit_are_refused(shape, kernels, message):
    with pytest.raises(ValueError, match=message):
        depthwise_conv(torch.randn(shape), torch.randn(kernels))


@needs_own_gradient
def test_the_offset_network_uses_it(own_gradients):
    torch.manual_seed(0)
    network, x = OffsetNetwork(8, 9, 3), torch.randn(2, 8, 14, 14)
    results = []
    for dtype in (torch.float32, torch.float64):
        copy = OffsetNetwork(8, 9, 3).to(dtype)
        copy.load_state_dict(network.state_dict())
        y = copy(x.to(dtype))
        results.append([y, *torch.autograd.grad(y.square().sum(), list(copy.parameters()))])
    assert own_gradients == [(2, 8, 14, 14)]
    assert_near(*results, 1e-5)


def make_layer(**changes):
    torch.manual_seed(0)
    return nn.Conv2d(4, 4, **dict(dict(kernel_size=5, padding=2, groups=4), **changes))


@pytest.mark.parametrize(
    'changes',
    [
        dict(stride=2),
        dict(dilation=2, padding=4),
        dict(padding_mode='reflect'),
        dict(padding=0),
        dict(padding='same'),
        dict(groups=1),
        dict(groups=2),
        dict(kernel_size=4),
        dict(),
    ],
    ids=str,
)
def test_a_layer_that_was_exchanged_keeps_its_meaning(changes):
    layer, x = make_layer(**changes), torch.randn(2, 4, 13, 12)
    torch.testing.assert_close(apply_depthwise(layer, x), layer(x))


@needs_own_gradient
def test_hooks_on_the_layer_are_called(own_gradients):
    layer, x = make_layer(), torch.randn(2, 4, 13, 12)
    apply_depthwise(layer, x).sum().backward()
    assert len(own_gradients) == 1
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    apply_depthwise(layer, x).sum().backward()
    assert calls == [1] and len(own_gradients) == 1
