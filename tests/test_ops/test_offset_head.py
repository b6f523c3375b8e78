"""The Triton kernels of the offset network, on a GPU or in Triton's interpreter, against its layers in float64."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmdefmamba.ops import TokenOrder, learned_order, use_backend
from mmdefmamba.ops.offset_head import channel_attention
from mmdefmamba.ops.triton_maps import attention_op, head_op
from mmdefmamba.ops.triton_scan import unavailable_reason
from mmdefmamba.scans import ScanContext, build_scan, deformable
from mmdefmamba.scans.deformable import reference_index

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
REASON = unavailable_reason(torch.zeros(1, device=DEVICE))
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.usefixtures('quick_interpreter'),
]


def make_scan(channels=6, formulation='paper', **parts):
    torch.manual_seed(0)
    scan = build_scan({'type': 'deformable', **parts}, ScanContext(channels, 3, (4, 5), formulation))
    for parameter in scan.parameters():  # so that no part is nearly without effect
        nn.init.normal_(parameter, std=0.5)
    scan.offset_network.dwconv = nn.Identity()  # it has tests of its own
    return scan.to(DEVICE)


def make_map(batch, channels, height, width, layout='half of a wider map'):
    if layout == 'half of a wider map':
        return torch.randn(batch, height, width, 2 * channels, device=DEVICE).chunk(2, -1)[1].permute(0, 3, 1, 2)
    return torch.randn(batch, channels, height, width, device=DEVICE)


def offsets_and_keys(scan, u, backend):
    """What the scan computes from a map before it samples and sorts: by kernels with 'triton', else by its layers."""
    with use_backend(backend):
        fused = scan._fused_offsets(u)
        assert (fused is not None) == (backend == 'triton')
        if fused is not None:
            return fused
        points, index = scan.offsets(u)
        return points, None if index is None else scan.sort_keys(index)


def leaves_and_terms(scan, u, dtype, backend):
    """Return results; the map and all parameters; and the terms of a loss. Weights of the results have no symmetry."""
    scan, u = scan.to(dtype), u.detach().to(dtype).requires_grad_()
    results = [x for x in offsets_and_keys(scan, u, backend) if x is not None]
    terms = [(x * torch.arange(x.numel(), device=DEVICE).cos().view(x.shape)).flatten() for x in results]
    leaves = [u, *(p for p in scan.parameters() if p is not getattr(scan.offset_bias, 'table', None))]
    return results, leaves, torch.cat(terms)


def with_gradients(scan, u, dtype, backend):
    """Return results, and the gradients of the map and of all parameters."""
    results, leaves, terms = leaves_and_terms(scan, u, dtype, backend)
    return [*results, *torch.autograd.grad(terms.sum(), leaves)]


def largest_amounts(scan, u):
    """Return the largest number of each result, and of each gradient if none of the loss's terms cancelled another."""
    results, leaves, terms = leaves_and_terms(scan, u, torch.float64, 'reference')
    each = torch.eye(len(terms), dtype=torch.float64, device=DEVICE)
    of_terms = torch.autograd.grad(terms, leaves, each, is_grads_batched=True)
    return [*(x.abs().max() for x in results), *(g.abs().sum(0).max() for g in of_terms)]


def relative(actual, exact):
    return ((actual.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-12)).item()


# (B, C, H, W) and the parts: two tiles of tokens and a rest, blocks of channels and a rest, sides of 1
CASES = {
    'two tiles': ((2, 6, 9, 8), {}),
    'two blocks': ((1, 100, 3, 2), {}),
    'one token': ((2, 6, 1, 1), {}),
    'one column': ((1, 6, 5, 1), {}),
    'as in the text': ((1, 6, 3, 4), dict(norm_first=False, attention_input='convolution')),
    'no attention': ((1, 33, 3, 4), dict(channel_attention=False)),
    'no order': ((1, 6, 3, 4), dict(order=False)),
    'no points': ((1, 6, 3, 4), dict(points=False, offset_bias=False)),
    'swap': ((1, 6, 3, 4), dict(order_gradient='swap')),
}


# Between the map and a gradient there are about 22 operations in a row that round: mean, variance, root and quotient
# (8), the norm's products (4), GELU's series and exponential (6), tanh (4). A gradient is a sum of terms of both signs,
# so its error is relative to the sum of their amounts and not to what they leave. On a GPU the exponential and the
# quotient in GELU are off by up to two units: then the gradient of a bias, whose terms leave a fortieth, is off by
# 2.2e-6 of itself and 5e-8 of their amounts.
ROUNDINGS = 22


@pytest.mark.parametrize(('name', 'formulation'), [(name, 'paper') for name in CASES] + [('two tiles', 'released')])
def test_offsets_keys_and_gradients_agree_with_float64(name, formulation):
    shape, parts = CASES[name]
    scan, u = make_scan(shape[1], formulation, **parts), make_map(*shape)
    actual = with_gradients(scan, u, torch.float32, 'triton')
    exact = with_gradients(scan, u, torch.float64, 'reference')
    for a, e, amount in zip(actual, exact, largest_amounts(scan, u), strict=True):
        assert a.dtype == torch.float32 and a.shape == e.shape
        assert (a.double() - e).abs().max() < ROUNDINGS * 2**-24 * amount


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_the_kernels_are_nearer_to_float64_than_the_layers(dtype):
    scan, u = make_scan(), make_map(2, 6, 4, 5).to(dtype)
    exact = with_gradients(scan, u, torch.float64, 'reference')
    errors = {}
    for backend in ('triton', 'reference'):
        scan.float()
        with torch.autocast(DEVICE, dtype):
            results = offsets_and_keys(scan, u, backend)
        errors[backend] = [relative(a, e) for a, e in zip(results, exact, strict=False)]
        assert all(x.dtype == torch.float32 for x in results)
    for kernels, layers in zip(errors['triton'], errors['reference'], strict=True):
        assert kernels < layers < 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_gradients_in_half_precision_are_rounded_at_the_end(dtype):
    x, scale, weight, bias, proj = (torch.randn(s) for s in ((1, 12, 6), (1, 6), (6,), (6,), (3, 6)))
    gradients = {}
    for kind in (dtype, torch.float32):
        # the same numbers in both dtypes
        leaves = [t.to(DEVICE, dtype).to(kind).requires_grad_() for t in (x, scale, weight, bias, proj)]
        points, keys = head_op.offset_head_triton(*leaves, 1e-5, (3, 4), True, True, False, True)
        loss = (points * torch.arange(24, device=DEVICE).cos().view(1, 12, 2)).sum() + (keys * keys).sum()
        gradients[kind] = torch.autograd.grad(loss, leaves)
    for rounded, exact in zip(gradients[dtype], gradients[torch.float32], strict=True):
        assert rounded.dtype == dtype  # and off by less than the last bit: Triton's interpreter cuts bits off
        assert ((rounded.float() - exact).abs() <= torch.finfo(dtype).eps * exact.abs()).all()


@pytest.mark.parametrize('formulation', ['paper', 'released'])
@pytest.mark.parametrize('size', [(1, 1), (1, 3), (7, 11)], ids=str)
def test_without_offsets_the_keys_are_the_reference_index_bit_for_bit(size, formulation):
    scan = make_scan(formulation=formulation)
    nn.init.zeros_(scan.offset_network.proj.weight)
    points, keys = offsets_and_keys(scan, make_map(2, 6, *size), 'triton')
    assert not points.any()
    assert torch.equal(keys[0], reference_index(size[0] * size[1], formulation, torch.float32, DEVICE))


def test_the_variance_of_channels_with_a_large_mean_is_not_lost():
    x = 1000 + torch.randn(1, 12, 100, device=DEVICE)
    ones, proj = torch.ones(100, device=DEVICE), torch.randn(1, 100, device=DEVICE) / 10

    def head(x, ones, proj):
        normal = nn.functional.layer_norm(x, (100,), ones, None, 1e-5)
        return (nn.functional.gelu(normal) @ proj.t()).tanh().squeeze(-1)

    options = (1e-5, (3, 4), False, True, False, True)
    keys = head_op.offset_head_triton(x, None, ones, 0 * ones, proj, *options)[1]
    offset = keys - reference_index(12, 'paper', torch.float32, DEVICE)
    exact = head(x.double(), ones.double(), proj.double())
    assert relative(offset, exact) < 3 * relative(head(x, ones, proj), exact) + 1e-6


@pytest.mark.parametrize('length', [1, 600])  # one token; two sums of a part of the image
def test_channel_attention_and_its_gradients_agree_with_float64(length):
    leaves = [torch.randn(s, device=DEVICE) for s in ((2, 5, 1, length), (3, 5), (3,), (5, 3), (5,))]
    gradients = torch.randn(2, 5, device=DEVICE)

    def layers(x, fc1, bias1, fc2, bias2):
        return (nn.functional.gelu(x.mean((2, 3)) @ fc1.t() + bias1) @ fc2.t() + bias2).sigmoid()

    results = []
    for function, dtype in ((channel_attention, torch.float32), (layers, torch.float32), (layers, torch.float64)):
        given = [t.detach().to(dtype).requires_grad_() for t in leaves]
        weights = function(*given)
        results.append([weights, *torch.autograd.grad(weights, given, gradients.to(dtype))])
    for kernels, plain, exact in zip(*results, strict=True):
        assert relative(kernels, exact) < 1e-6 + 2 * relative(plain, exact)


def test_a_map_is_read_where_it_lies_and_any_other_is_copied(monkeypatch):
    scan, u = make_scan(), make_map(2, 6, 3, 4)
    expected = offsets_and_keys(scan, u, 'triton')
    other = offsets_and_keys(scan, u.contiguous(), 'triton')
    assert all(torch.equal(*pair) for pair in zip(expected, other, strict=True))
    contiguous = torch.Tensor.contiguous
    monkeypatch.setattr(
        torch.Tensor, 'contiguous', lambda x, **_: pytest.fail('a copy') if x.shape[:2] == (2, 12) else contiguous(x)
    )
    offsets_and_keys(scan, u, 'triton')


def test_every_run_gives_the_same_bits_and_no_image_reaches_another():
    scan, u = make_scan(), make_map(2, 6, 9, 8)
    runs = [with_gradients(scan, u, torch.float32, 'triton') for _ in range(2)]
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))
    u[0, 0, 0, 0] = float('nan')
    points, keys = offsets_and_keys(scan, u, 'triton')
    assert keys[0].isnan().all(), 'through the mean of the map'
    assert torch.equal(points[1], runs[0][0][1]) and torch.equal(keys[1], runs[0][1][1])


class DoubledNorm(nn.LayerNorm):
    def forward(self, x):
        return 2 * super().forward(x)


class HalvedOffsets(deformable.DeformableScan):
    def constrain(self, raw):
        return super().constrain(raw / 2)


CHANGES = {
    'hook of a layer': lambda scan: scan.offset_network.norm.register_forward_hook(lambda *a: 2 * a[2]),
    'hook of the network': lambda scan: scan.offset_network.register_forward_hook(lambda *a: 2 * a[2]),
    'hook of the attention': lambda scan: scan.offset_network.channel_attention.register_forward_hook(
        lambda *a: a[2] ** 3
    ),
    'another norm': lambda scan: setattr(scan.offset_network, 'norm', DoubledNorm(6)),
    'another GELU': lambda scan: setattr(scan.offset_network, 'act', nn.GELU('tanh')),
    'another activation of the attention': lambda scan: setattr(
        scan.offset_network.channel_attention, 'act', nn.ReLU()
    ),
    'no norm weight': lambda scan: setattr(scan.offset_network, 'norm', nn.LayerNorm(6, elementwise_affine=False)),
    'a replaced function': lambda scan: setattr(scan, 'constrain', lambda raw, f=scan.constrain: f(raw / 2)),
    'a subclass': lambda scan: setattr(scan, '__class__', HalvedOffsets),
}


@pytest.mark.parametrize('change', CHANGES)
def test_hooks_and_replaced_layers_are_called(change):
    scan, u = make_scan(), make_map(1, 6, 3, 4)
    with use_backend('triton'):
        before = scan(u)[0]
        CHANGES[change](scan)
        scan.to(DEVICE)
        after = scan(u)[0]
    with use_backend('reference'):
        expected = scan.double()(u.double())[0]
    assert not torch.allclose(before, after, rtol=0, atol=1e-5)
    assert relative(after, expected) < 1e-5


@pytest.mark.parametrize('parts', [dict(key_dtype='float16'), dict(point_dtype='float16')], ids=str)
def test_offsets_that_are_rounded_come_from_the_layers(parts):
    with use_backend('triton'):
        assert make_scan(**parts)._fused_offsets(make_map(1, 6, 3, 4)) is None


@pytest.mark.parametrize('gradient', ['paper', 'released'])
@pytest.mark.parametrize('dtype', [torch.int32, torch.int64], ids=str)
def test_the_gradient_of_an_order_is_one_kernel_with_the_same_numbers(gradient, dtype):
    torch.manual_seed(0)
    order = TokenOrder(torch.stack([torch.randperm(35) for _ in range(2)]).to(DEVICE, dtype))
    x, upstream = make_map(2, 40, 5, 7), make_map(2, 40, 5, 7)
    gradients = {}
    for backend, kind in (('triton', torch.float32), ('reference', torch.float64)):
        offset = torch.zeros(2, 35, dtype=kind, device=DEVICE, requires_grad=True)
        with use_backend(backend):
            y = learned_order(x.to(kind), offset, order, gradient)
        (gradients[backend],) = torch.autograd.grad(y, offset, upstream.to(kind))
    assert relative(gradients['triton'], gradients['reference']) < 1e-6


def test_what_torch_compile_is_told_is_what_the_operators_return():
    def randn(*shape):
        return torch.randn(shape, device=DEVICE, requires_grad=True)

    x, order = randn(2, 4, 3), torch.tensor([[0, 3, 1, 2]] * 2, device=DEVICE, dtype=torch.int32)
    head = (randn(2, 3), randn(3), randn(3), randn(3, 3), 1e-5, 2, 2, True, True, False, True)
    attention = (randn(1, 3), randn(1), randn(3, 1), randn(3))
    tests = ('test_schema', 'test_faketensor', 'test_autograd_registration')
    for name, args in (
        ('offset_head', (x, *head)),
        ('channel_attention', (x, *attention)),
        ('order_gradient', (x, order, True)),
    ):
        torch.library.opcheck(getattr(torch.ops.mmdefmamba, name).default, args, test_utils=tests)
    detached = [t.detach() if isinstance(t, torch.Tensor) else t for t in (x, *head)]
    results = torch.ops.mmdefmamba.offset_head(*detached)
    backward = (*results, *results, *detached[:8], False, True)
    torch.library.opcheck(torch.ops.mmdefmamba.offset_head_backward.default, backward, test_utils=tests[:2])
    results = torch.ops.mmdefmamba.channel_attention(x.detach(), *(t.detach() for t in attention))
    backward = (results[0], *results, attention[0].detach(), attention[2].detach(), 4)
    torch.library.opcheck(torch.ops.mmdefmamba.channel_attention_backward.default, backward, test_utils=tests[:2])


@pytest.mark.parametrize('formulation', ['paper', 'released'])
@pytest.mark.usefixtures('fake_cuda')
def test_a_scan_on_a_gpu_makes_no_constants_and_sorts_once(formulation, monkeypatch, record_operators):
    """Reference points, indices and sizes are computed in the kernels. Tensors without memory show what runs."""
    monkeypatch.setattr(nn.init, 'trunc_normal_', lambda x, **_: x)
    with FakeTensorMode(), torch.device('cuda'), record_operators() as recorder:
        scan = build_scan('deformable', ScanContext(6, 3, (4, 5), formulation))
        u = torch.empty(2, 4, 5, 6).permute(0, 3, 1, 2)
        recorder.calls.clear()
        # the table of the released formulation is resized
        order = scan(u)[1].order
    assert order.dtype == torch.int32
    names = [name for name in recorder.names if name not in ('device', 'upsample_bilinear2d')]
    assert names == ['depthwise_conv', 'channel_attention', 'offset_head', 'read_at_offsets', 'sort', '_to_copy']


def test_tiles_leave_few_channels_over():
    assert [head_op._tile(c, head_op.FORWARD_BLOCKS) for c in (96, 192, 384, 48)] == [
        (64, 32),
        (32, 64),
        (16, 128),
        (32, 64),
    ]
    assert attention_op._sizes(96, 6) == dict(H_BLOCK=8, C_PADDED=128, num_warps=4)
    assert attention_op._sizes(1, 1) == dict(H_BLOCK=1, C_PADDED=1, num_warps=4)
