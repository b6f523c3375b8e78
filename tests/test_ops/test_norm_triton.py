"""Residual addition, LayerNorm and GELU in one pass, on a GPU or in Triton's interpreter, against float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmdefmamba.models import DefMamba
from mmdefmamba.models.dm_block import DMBlock
from mmdefmamba.models.drop_path import DropPath
from mmdefmamba.models.norm_layers import add_and_norm, apply_norm
from mmdefmamba.models.stem import ConvNorm, Stem
from mmdefmamba.ops import use_backend
from mmdefmamba.ops.norm import add_norm, conv_norm, layer_norm
from mmdefmamba.ops.triton_maps import norm_op
from mmdefmamba.ops.triton_scan import unavailable_reason

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
REASON = unavailable_reason(torch.zeros(1, device=DEVICE))
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.usefixtures('quick_interpreter'),
]
HALF = pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)


@pytest.fixture
def launches(shapes_given_to):
    """The shapes of the maps that the Triton kernel normalised."""
    return shapes_given_to(norm_op, '_tiling')


def make_inputs(shape, dtype=torch.float32, branch_dtype=None):
    """x, branch, weight, bias. Rows have means far from zero, which a one-pass variance would lose."""
    torch.manual_seed(0)
    x, branch = torch.randn(shape) + 3, torch.randn(shape)
    weight, bias = torch.randn(2, shape[-1])
    return [x.to(DEVICE, dtype), branch.to(DEVICE, branch_dtype or dtype), weight.to(DEVICE), bias.to(DEVICE)]


def with_gradients(function, inputs, dtype=None, used=(True, True)):
    """The results and the gradients of all inputs; ``used`` says which results the loss reads."""
    inputs = [x.detach().to(dtype or x.dtype).requires_grad_() for x in inputs]
    results = function(*inputs)
    loss = 0
    for i, (y, use) in enumerate(zip(results, used, strict=False)):
        if use:
            loss = loss + (i + 1) * (torch.arange(y.numel(), device=DEVICE).sin().view(y.shape) * y.to(dtype)).sum()
    return [*results, *torch.autograd.grad(loss, inputs, allow_unused=True)]


def compare(function, plain, inputs, tolerances, used=(True, True)):
    """Compare kernels with PyTorch's float64; ``tolerances`` has one entry, or one per result and gradient."""
    with use_backend('triton'), torch.autocast(DEVICE, torch.bfloat16):
        actual = with_gradients(function, inputs, used=used)
    exact = with_gradients(plain, inputs, torch.float64, used)
    for i, (a, e) in enumerate(zip(actual, exact, strict=True)):
        assert (a is None) == (e is None)
        if e is not None:
            assert a.shape == e.shape
            tolerance = tolerances[min(i, len(tolerances) - 1)]
            assert (a.double() - e).abs().max() <= tolerance * e.abs().max(), i
    return actual


def added(kept=None, keep_prob=1.0, dtype=torch.float32):
    def function(x, branch, weight, bias):
        return add_norm(x, branch, weight, bias, 1e-5, kept=kept, keep_prob=keep_prob, dtype=dtype)

    def plain(x, branch, weight, bias):
        total = x + (branch if kept is None else branch * kept.double() / keep_prob)
        return total, F.layer_norm(total, x.shape[-1:], weight, bias, 1e-5)

    return function, plain


@pytest.mark.parametrize('shape', [(2, 3, 2, 5), (1, 1, 1, 1), (3, 7, 48), (1, 130, 16)], ids=str)
@pytest.mark.parametrize('dropped', [False, True])
def test_sum_norm_and_gradients_agree_with_float64(shape, dropped, launches):
    """Channels that are no power of two, rows that do not fill the last program, and images without a branch."""
    kept = torch.tensor([1.0, 0.0, 1.0], device=DEVICE)[: shape[0]].view(-1, *[1] * (len(shape) - 1))
    inputs = make_inputs(shape)
    function, plain = added(*((kept, 0.8) if dropped else ()))
    # with one channel the norm is constant, and its gradient a difference of equal numbers
    compare(function, plain, inputs, [2e-6] if shape[-1] > 1 else [1e-6, 1e-6, 1e-4])
    assert launches == [shape] * 2


def test_a_program_of_the_backward_may_have_several_tiles(monkeypatch):
    monkeypatch.setattr(norm_op, 'MAX_PROGRAMS', 2)
    monkeypatch.setattr(norm_op, 'NUMBERS', 16)
    compare(*added(), make_inputs((1, 9, 8)), [1e-6])


@HALF
@pytest.mark.parametrize('residual', ['float32', 'half'])
def test_half_precision_rounds_results_only(dtype, residual):
    eps = torch.finfo(dtype).eps
    inputs = make_inputs((2, 5, 24), torch.float32 if residual == 'float32' else dtype, dtype)
    # the norm of a sum that was rounded: the sums are about 3, and their deviation is about 1
    actual = compare(*added(dtype=dtype), inputs, [eps, eps if residual == 'float32' else 3 * eps])
    assert [x.dtype for x in actual] == [inputs[0].dtype, dtype, *(x.dtype for x in inputs)]


@pytest.mark.parametrize('used', [(True, False), (False, True)], ids=str)
@pytest.mark.parametrize('dropped', [False, True])
def test_either_result_may_be_unused(used, dropped):
    kept = torch.tensor([1.0, 0.0], device=DEVICE).view(2, 1, 1)
    compare(*added(*((kept, 0.5) if dropped else ())), make_inputs((2, 3, 4)), [1e-6], used)


@pytest.mark.parametrize('gelu', [False, True])
@HALF
def test_norm_and_gelu_agree_with_float64(gelu, dtype):
    x, _, weight, bias = make_inputs((2, 5, 12), dtype)
    eps = torch.finfo(dtype).eps

    def norm(x, weight, bias):
        return (layer_norm(x, weight, bias, 1e-5, gelu=gelu, dtype=dtype),)

    def plain(x, weight, bias):
        y = F.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)
        return (F.gelu(y) if gelu else y,)

    # the gradient of the result is rounded, too
    compare(norm, plain, [x, weight, bias], [eps, 2 * eps])


@pytest.mark.parametrize('layout', ['images', 'channel-last'])
@pytest.mark.parametrize('has_shift', [True, False])
def test_convolution_norm_and_gelu_agree_with_float64(has_shift, layout, launches):
    """The norm adds the bias of the convolution, and its backward returns the gradient of it."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 6).permute(0, 2, 3, 1) if layout == 'images' else torch.randn(2, 5, 6, 3)
    parameters = [torch.randn(4, 3, 3, 3), *([torch.randn(4)] if has_shift else []), torch.randn(4), torch.randn(4)]
    inputs = [t.to(DEVICE) for t in (x, *parameters)]

    def function(x, kernels, *others):
        shift = others[0] if has_shift else None
        return (conv_norm(x, kernels, shift, 2, 1, *others[-2:], 1e-5, gelu=True),)

    with use_backend('triton'):
        actual = with_gradients(function, inputs, torch.float32)
    assert len(launches) == 2
    for a, e in zip(actual, with_gradients(function, inputs, torch.float64), strict=True):
        assert a.shape == e.shape and (a.double() - e).abs().max() <= 2e-6 * e.abs().max()


def test_every_run_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(norm_op, 'NUMBERS', 16)
    inputs = make_inputs((2, 7, 8))
    with use_backend('triton'):
        runs = [with_gradients(added()[0], inputs, torch.float32) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_what_the_kernels_do_not_take_is_left_to_torch(launches):
    x, branch, weight, bias = make_inputs((2, 3, 4))
    with use_backend('triton'):
        assert torch.equal(layer_norm(x, weight, None, 1e-5), F.layer_norm(x, (4,), weight, None, 1e-5))
        layer_norm(x[:0], weight, bias, 1e-5)
        add_norm(*(t.double() for t in (x, branch, weight, bias)), 1e-5)
        assert add_norm(x, branch[:1], weight, bias, 1e-5)[0].equal(x + branch[:1])
        torch.func.grad(lambda w: layer_norm(x, w, bias, 1e-5).sum())(weight)
        with pytest.raises(RuntimeError):  # as F.layer_norm does
            layer_norm(x, weight.half(), bias.half(), 1e-5)
    layer_norm(x, weight, bias, 1e-5)
    assert launches == [(2, 3, 4)]  # the norm after the addition of one branch to all images


def test_the_operators_pass_opcheck():
    x, branch, weight, bias = (t.requires_grad_() for t in make_inputs((2, 3, 4)))
    scale = torch.tensor([2.0, 0.0], device=DEVICE)
    operator, backward = torch.ops.mmdefmamba.add_norm, torch.ops.mmdefmamba.add_norm_backward
    # the fourth test of opcheck, which compiles, takes ten seconds
    quick = dict(test_utils=('test_schema', 'test_autograd_registration', 'test_faketensor'))
    torch.library.opcheck(operator, (x, branch, scale, None, weight, bias, 1e-5, False, torch.float32), **quick)
    torch.library.opcheck(operator, (x, None, None, weight, weight, bias, 1e-5, True, torch.bfloat16), **quick)
    x, weight, bias = (t.detach() for t in (x, weight, bias))
    options = (1e-5, False, torch.float32)
    torch.library.opcheck(backward, (x, x, x, scale, None, weight, bias, *options, torch.bfloat16), **quick)
    torch.library.opcheck(backward, (None, x, x, None, weight, weight, bias, *options, None), **quick)


# -- The network.


def build(**kwargs):
    torch.manual_seed(0)
    arch = {'embed_dims': (4, 8), 'depths': (2, 1)}
    scans = ('raster',)
    return DefMamba(arch, scans=scans, dw_conv=False, pretrain_img_size=8, **kwargs).to(DEVICE)


def test_the_network_computes_the_same_with_one_pass_for_each_addition(launches):
    """Values, gradients, and the numbers that drop path draws."""
    model = build(drop_path_rate=0.5)
    images = torch.randn(3, 3, 8, 5, device=DEVICE)
    results = []
    for backend in ('triton', 'blockwise'):
        torch.manual_seed(0)
        with use_backend(backend):
            outs = model(images)
        loss = sum((torch.arange(y.numel(), device=DEVICE).sin().view(y.shape) * y).sum() for y in outs)
        results.append([*outs, *torch.autograd.grad(loss, list(model.parameters()))])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    # stem 2, downsampling 1, norm1 of two first blocks, the first addition of three blocks, the second of one; each has
    # a backward
    assert len(launches) == 2 * (3 + 2 + 3 + 1)


def test_hooks_see_each_map_and_change_no_number():
    model, images = build(), torch.randn(1, 3, 8, 8, device=DEVICE)
    blocks = [m for m in model.modules() if isinstance(m, DMBlock)]
    parts = [m for block in blocks for m in (block, block.norm1, block.norm2, block.drop_path, block.dssm)]
    expected = model(images)
    seen = []
    handles = [m.register_forward_hook(lambda m, args, out: seen.append((m, len(args), out.shape))) for m in parts]
    for a, e in zip(model(images), expected, strict=True):
        assert torch.equal(a, e)
    # each part once, drop path twice
    assert len(seen) == len(parts) + len(blocks) and {m for m, *_ in seen} == set(parts)
    assert all(count == 1 and len(shape) == 4 for _, count, shape in seen)
    for handle in handles:
        handle.remove()
    blocks[1].register_forward_hook(lambda m, args, out: seen.append(out))
    model(images)
    assert seen[-1].shape == (1, 2, 2, 4)


def test_a_changed_output_of_a_block_reaches_the_next_block():
    model, images = build(), torch.randn(1, 3, 8, 8, device=DEVICE)
    expected = model(images)
    handle = model.stages[0][0].register_forward_hook(lambda m, args, out: out * 2)
    changed = model(images)
    handle.remove()
    assert not torch.equal(changed[0], expected[0])
    assert torch.equal(model(images)[0], expected[0])


def test_exchanged_layers_are_called(launches):
    x, branch, *_ = make_inputs((2, 3, 4))
    norm = nn.LayerNorm(4, bias=False).to(DEVICE)
    doubled = nn.LayerNorm(4).to(DEVICE)
    doubled.forward = lambda x: 2 * x
    with use_backend('triton'):
        total, normed = add_and_norm(x, branch, nn.Identity(), norm)
        assert torch.equal(total, x + branch) and torch.equal(normed, norm(total))
        assert torch.equal(add_and_norm(x, branch, DropPath(), doubled)[1], 2 * (x + branch))
        assert torch.equal(apply_norm(doubled, x, nn.GELU('tanh')), F.gelu(2 * x, approximate='tanh'))
        assert torch.equal(apply_norm(norm, x, nn.ReLU(), torch.float16), norm(x).relu().half())
    assert launches == []
    stem = Stem(3, 4).to(DEVICE)
    images = torch.randn(1, 8, 8, 3, device=DEVICE)
    expected = stem(images)
    stem[1] = nn.ReLU()
    assert torch.equal(stem(images), stem[2](stem[0](images).relu())) and not torch.equal(stem(images), expected)


@pytest.mark.parametrize(('choice', 'dtype'), [('float32', torch.float32), ('autocast', torch.bfloat16)])
@pytest.mark.parametrize('backend', ['triton', 'blockwise'])
def test_the_residual_stream_has_the_dtype_that_was_asked_for(choice, dtype, backend):
    model, seen = build(residual_dtype=choice), []
    for module in (model.stem[2], model.downsamples[0], model.stages[0][1]):
        module.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    images = torch.randn(1, 3, 8, 8, device=DEVICE)
    with use_backend(backend), torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):
        model(images)
        assert seen == [dtype] * 3
    if backend == 'blockwise':
        assert torch.equal(model(images)[1], build()(images)[1])  # without autocast it changes nothing
        assert model.double()(images.double())[0].dtype == torch.float64


def test_an_unknown_dtype_of_the_residual_stream_is_refused():
    with pytest.raises(ValueError, match=r"residual_dtype must be one of \(None, 'float32', 'autocast'\), got 'half'"):
        build(residual_dtype='half')


def test_norms_over_more_than_channels_are_called():
    norm = ConvNorm(3, 4).to(DEVICE)
    norm.norm = nn.LayerNorm((4, 4, 4)).to(DEVICE)
    assert norm(torch.randn(2, 8, 8, 3, device=DEVICE)).shape == (2, 4, 4, 4)
