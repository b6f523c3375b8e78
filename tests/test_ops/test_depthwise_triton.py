"""The Triton kernels of the depthwise convolution, on a GPU or in Triton's interpreter, against float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmdefmamba.models.dssm import DSSM
from mmdefmamba.ops import use_backend
from mmdefmamba.ops.depthwise_conv import depthwise_conv
from mmdefmamba.ops.triton_maps import depthwise_op
from mmdefmamba.ops.triton_scan import unavailable_reason
from mmdefmamba.scans import ScanContext
from mmdefmamba.scans.deformable import apply_depthwise

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
REASON = unavailable_reason(torch.zeros(1, device=DEVICE))
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.usefixtures('quick_interpreter'),
]


@pytest.fixture
def launches(shapes_given_to):
    """The shapes of the maps that the Triton kernels convolved."""
    return shapes_given_to(depthwise_op, '_launch_forward')


def make_inputs(shape, kernel, dtype=torch.float32, bias=True, layout='half of a wider map'):
    torch.manual_seed(0)
    batch, channels, height, width = shape
    if layout == 'half of a wider map':
        x = torch.randn(batch, height, width, 2 * channels).chunk(2, dim=-1)[1].permute(0, 3, 1, 2)
    else:
        x = torch.randn(shape)
    tensors = [x, torch.randn(channels, 1, *kernel), torch.randn(channels) if bias else None]
    return [None if x is None else x.to(DEVICE, dtype) for x in tensors]


def with_gradients(inputs, silu, dtype=None, backend='triton', needed=(True, True, True)):
    inputs = [None if x is None else x.detach().to(dtype or x.dtype) for x in inputs]
    leaves = [x.requires_grad_() for x, need in zip(inputs, needed, strict=True) if need and x is not None]
    with use_backend(backend):
        y = depthwise_conv(*inputs, silu=silu)
    weights = torch.arange(y.numel(), device=DEVICE).sin().view(y.shape).to(inputs[0].dtype)
    return [y, *torch.autograd.grad(y, leaves, weights)]


def compare(inputs, silu, tolerance, **kwargs):
    actual = with_gradients(inputs, silu, **kwargs)
    exact = with_gradients(inputs, silu, torch.float64, 'reference', **kwargs)
    for a, e in zip(actual, exact, strict=True):
        assert a.dtype == inputs[0].dtype and a.shape == e.shape
        assert (a.double() - e).abs().max() <= tolerance * e.abs().max()


# (B, C, H, W), kernel, SiLU, bias: several images, blocks of channels, tiles and splits, rows of the kernel that no
# program needs (7 in two groups of four), maps smaller than the kernel, sides of 1, and kernels that are not square
CASES = [
    ((2, 5, 4, 9), (3, 3), True, True),
    ((1, 33, 3, 8), (3, 3), True, False),
    ((2, 2, 9, 9), (3, 3), False, True),
    ((1, 2, 6, 7), (5, 5), False, True),
    ((1, 2, 5, 4), (7, 7), False, False),
    ((1, 3, 4, 10), (9, 9), False, True),
    ((1, 2, 1, 1), (5, 1), True, True),
    ((1, 1, 9, 1), (1, 3), False, True),
]


@pytest.mark.parametrize(('shape', 'kernel', 'silu', 'bias'), CASES, ids=str)
def test_values_and_gradients_agree_with_float64(shape, kernel, silu, bias, launches):
    compare(make_inputs(shape, kernel, bias=bias), silu, 1e-6)
    batch, channels, height, width = shape
    assert launches == [(batch, height, width, channels)] * 2  # the map, and its gradient


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_rounds_results_only(dtype):
    # SiLU's gradient is rounded once more, before it is convolved
    compare(make_inputs((1, 3, 3, 8), (3, 3), dtype), True, torch.finfo(dtype).eps)


def test_images_are_divided_among_programs(monkeypatch):
    monkeypatch.setattr(depthwise_op, 'MIN_PROGRAMS', 2)
    inputs = make_inputs((1, 2, 9, 9), (3, 3))
    tiles, _ = depthwise_op._tiling(inputs[0].permute(0, 2, 3, 1), 3)
    assert tiles == 3  # for two programs
    compare(inputs, True, 1e-6)


@pytest.mark.parametrize('needed', [(1, 0, 0), (0, 1, 0), (0, 0, 1)], ids=str)
@pytest.mark.parametrize('silu', [True, False])
def test_only_the_needed_gradients_are_returned(needed, silu):
    compare(make_inputs((1, 2, 3, 4), (3, 3)), silu, 1e-6, needed=needed)


def test_results_are_channel_last_whatever_the_layout_of_the_input():
    inputs = make_inputs((2, 3, 4, 5), (3, 3), layout='contiguous')
    with use_backend('triton'):
        y = depthwise_conv(*inputs)
    assert y.is_contiguous(memory_format=torch.channels_last)
    compare(inputs, False, 1e-6)


def test_a_map_that_is_stored_channel_last_is_not_copied(monkeypatch):
    monkeypatch.setattr(torch.Tensor, 'contiguous', lambda x, **_: pytest.fail('a copy') if x.ndim == 4 else x.clone())
    inputs = make_inputs((2, 3, 4, 5), (3, 3))
    with use_backend('triton'):
        depthwise_conv(*inputs)


def test_every_run_gives_the_same_bits():
    inputs = make_inputs((1, 3, 3, 9), (3, 3))
    runs = [with_gradients(inputs, True) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_nan_reaches_its_neighbours_and_no_other_pixel():
    x, weight, bias = make_inputs((1, 2, 5, 6), (3, 3))
    x[0, 1, 2, 3] = float('nan')
    with use_backend('triton'):
        y = depthwise_conv(x, weight, bias)
    expected = torch.zeros(y.shape, dtype=torch.bool, device=DEVICE)
    expected[0, 1, 1:4, 2:5] = True
    assert torch.equal(y.isnan(), expected)


def test_autocast_sets_the_dtype_of_the_result_and_keeps_the_weights_in_float32(launches):
    inputs = make_inputs((1, 2, 3, 4), (3, 3))
    exact = depthwise_conv(*(x.double() for x in inputs))
    with use_backend('triton'), torch.autocast(DEVICE, torch.float16):
        y = depthwise_conv(*inputs)
        assert y.dtype == torch.float16 and len(launches) == 1
    # one rounding, of the result: rounded weights would give larger errors
    assert ((y.double() - exact).abs() <= 2**-11 * exact.abs() + 1e-6).all()


def test_what_the_kernels_do_not_take_is_left_to_torch(launches):
    x, weight, bias = make_inputs((2, 2, 3, 4), (3, 3))
    with use_backend('triton'):
        assert depthwise_conv(x[:0], weight, bias).shape == (0, 2, 3, 4)
        depthwise_conv(*(t.double() for t in (x, weight, bias)))
        with pytest.raises(RuntimeError):  # as F.conv2d does
            depthwise_conv(x.bfloat16(), weight, bias)
        with pytest.raises(RuntimeError):
            depthwise_conv(x, weight, bias[:1])
        torch.func.grad(lambda w: depthwise_conv(x, w, bias).sum())(weight)
    with use_backend('blockwise'):
        depthwise_conv(x, weight, bias)
    assert launches == []


def test_the_operators_pass_opcheck():
    x, weight, bias = make_inputs((1, 2, 3, 2), (3, 3))
    x = x.permute(0, 2, 3, 1)
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    # the fourth test of opcheck, which compiles, takes ten seconds
    quick = dict(test_utils=('test_schema', 'test_autograd_registration', 'test_faketensor'))
    torch.library.opcheck(torch.ops.mmdefmamba.depthwise_conv, (*leaves, True, torch.float32), **quick)
    backward = torch.ops.mmdefmamba.depthwise_conv_backward
    torch.library.opcheck(backward, (x.contiguous(), x, weight, bias, True, True, True), **quick)


def test_the_state_space_model_convolves_and_activates_in_one_kernel(launches):
    torch.manual_seed(0)
    dssm = DSSM(ScanContext(4, 0, (2, 3), 'paper'), ['raster']).to(DEVICE)
    x = torch.randn(2, 2, 3, 4, device=DEVICE)
    with torch.no_grad():
        expected = dssm.double()(x.double())
        dssm.float()
        with use_backend('triton'):
            assert (dssm(x) - expected).abs().max() < 1e-5 * expected.abs().max()
            assert launches == [(2, 2, 3, 4)]
            calls = []
            dssm.conv.register_forward_hook(lambda *_: calls.append(1))
            assert (dssm(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert calls == [1] and len(launches) == 1


def test_a_layer_in_place_of_the_convolution_is_called_before_the_silu():
    x = torch.randn(1, 2, 3, 4, device=DEVICE)
    with use_backend('triton'):
        assert torch.equal(apply_depthwise(nn.Identity(), x, silu=True), F.silu(x))
