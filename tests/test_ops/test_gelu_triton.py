"""A bias and GELU after a matrix product, on a GPU or in Triton's interpreter, against float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmdefmamba.models.linear_layers import apply_ffn
from mmdefmamba.ops import use_backend
from mmdefmamba.ops.linear import linear_gelu
from mmdefmamba.ops.triton_maps import gelu_op
from mmdefmamba.ops.triton_scan import unavailable_reason

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
REASON = unavailable_reason(torch.zeros(1, device=DEVICE))
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.usefixtures('quick_interpreter'),
]


@pytest.fixture
def launches(shapes_given_to):
    """The shapes of the products that the Triton kernels read."""
    return shapes_given_to(gelu_op, '_tiling')


def make_inputs(rows=(2, 9), inner=3, channels=5):
    torch.manual_seed(0)
    shapes = ((*rows, inner), (channels, inner), (channels,))
    return [torch.randn(shape, device=DEVICE) for shape in shapes]


def with_gradients(function, inputs):
    inputs = [x.detach().requires_grad_() for x in inputs]
    y = function(*inputs)
    weights = torch.arange(y.numel(), device=DEVICE).sin().view(y.shape)
    return [y, *torch.autograd.grad((y * weights).sum(), inputs)]


def exact(x, weight, bias):
    return F.gelu(F.linear(x, weight, bias))


@pytest.mark.parametrize(('rows', 'channels'), [((2, 9), 5), ((40,), 130), ((1, 1, 1), 1)], ids=str)
def test_values_and_gradients_agree_with_float64(rows, channels, launches, monkeypatch):
    """Rows and channels that do not fill their last block, and programs that add up several blocks of rows."""
    monkeypatch.setattr(gelu_op, 'MAX_PROGRAMS', 4)
    inputs = make_inputs(rows, channels=channels)
    with use_backend('triton'):
        actual = with_gradients(linear_gelu, inputs)
    assert launches == [(*rows, channels)] * 2
    for a, e in zip(actual, with_gradients(exact, [x.double() for x in inputs]), strict=True):
        assert a.shape == e.shape and (a.double() - e).abs().max() <= 2e-6 * e.abs().max()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_rounds_the_product_and_the_result(dtype):
    inputs, eps = make_inputs(), torch.finfo(dtype).eps
    with use_backend('triton'), torch.autocast(DEVICE, dtype):
        actual = with_gradients(linear_gelu, inputs)
    assert actual[0].dtype == dtype
    rounded = [x.to(dtype).double() for x in inputs[:2]] + [inputs[2].double()]
    for a, e in zip(actual, with_gradients(exact, rounded), strict=True):
        assert (a.double() - e).abs().max() <= 3 * eps * e.abs().max()


def test_gelu_is_exact_far_from_zero():
    """GELU with a hyperbolic tangent is wrong by up to 5e-4, and its relative error grows where GELU is small."""
    x = torch.linspace(-5, 5, 101, device=DEVICE).unsqueeze(1)
    one, zero = torch.ones(1, 1, device=DEVICE), torch.zeros(1, device=DEVICE)
    with use_backend('triton'):
        actual = linear_gelu(x, one, zero)
    assert (actual.double() - F.gelu(x.double())).abs().max() < 5e-7


def test_without_gradients_the_product_is_overwritten(monkeypatch):
    products = []
    real = gelu_op._launch
    monkeypatch.setattr(gelu_op, '_launch', lambda x, bias, out: products.append(out is x) or real(x, bias, out))
    inputs = make_inputs()
    with use_backend('triton'), torch.no_grad():
        assert (linear_gelu(*inputs) - exact(*inputs)).abs().max() < 1e-6
    with use_backend('triton'):
        with_gradients(linear_gelu, inputs)
    assert products == [True, False]


def test_what_the_kernels_do_not_take_is_left_to_torch(launches):
    x, weight, bias = make_inputs()
    with use_backend('triton'):
        linear_gelu(x, weight)
        linear_gelu(x[:0], weight, bias)
        linear_gelu(*(t.double() for t in (x, weight, bias)))
        with pytest.raises(RuntimeError):  # as F.linear does
            linear_gelu(x, weight.half(), bias.half())
        torch.func.grad(lambda b: linear_gelu(x, weight, b).sum())(bias)
    linear_gelu(x, weight, bias)
    assert launches == []


def test_the_operators_pass_opcheck():
    _, _, bias = make_inputs()
    x = torch.randn(3, 5, device=DEVICE)
    quick = dict(test_utils=('test_schema', 'test_autograd_registration', 'test_faketensor'))
    torch.library.opcheck(torch.ops.mmdefmamba.bias_gelu_, (x, bias), **quick)
    torch.library.opcheck(torch.ops.mmdefmamba.bias_gelu_backward, (x, x, bias), **quick)
    leaves = (x.requires_grad_(), bias.requires_grad_())
    torch.library.opcheck(torch.ops.mmdefmamba.bias_gelu, leaves, **quick)


def test_every_run_gives_the_same_bits_and_hooks_are_called(launches):
    torch.manual_seed(0)
    ffn = nn.Sequential(nn.Linear(3, 20), nn.GELU(), nn.Linear(20, 3)).to(DEVICE)
    x = torch.randn(2, 17, 3, device=DEVICE)
    with use_backend('triton'):
        runs = [torch.autograd.grad(apply_ffn(ffn, x).square().sum(), list(ffn.parameters())) for _ in range(2)]
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True)) and len(launches) == 4
        seen = []
        ffn[1].register_forward_hook(lambda m, args, out: seen.append(out.shape))
        torch.testing.assert_close(apply_ffn(ffn, x), ffn(x))
    assert seen == [(2, 17, 20)] * 2 and len(launches) == 4
