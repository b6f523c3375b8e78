"""The Triton kernels, on a GPU or in Triton's interpreter, against the float64 reference: values and all gradients."""

import pytest
import torch
import torch.nn.functional as F

from mmdefmamba.models import DefMamba
from mmdefmamba.ops import TokenOrder, merge_scans, multi_scan, selective_scan
from mmdefmamba.ops.tensors import check_offsets
from mmdefmamba.ops.triton_scan import layout, multi_scan_triton, unavailable_reason

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
REASON = unavailable_reason(torch.zeros(1, device=DEVICE))
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.usefixtures('quick_interpreter'),
]


def make_orders(kinds, batch, length):
    backwards = TokenOrder.from_order(torch.arange(length, device=DEVICE).flip(0), backwards=True)
    made = {
        'forward': lambda: None,
        'backward': lambda: backwards,
        'static': lambda: TokenOrder.from_order(torch.randperm(length, device=DEVICE)),
        'learned': lambda: TokenOrder.from_order(
            torch.stack([torch.randperm(length, device=DEVICE) for _ in range(batch)])
        ),
    }
    return [made[kind]() for kind in kinds]


def make_inputs(kinds, sources, batch, length, channels, states, dtype=torch.float32):
    """Distinct maps, all other inputs, and orders. Values are exact in ``dtype``; parameters are float32."""
    torch.manual_seed(0)
    scans = len(kinds)

    def randn(*shape, dtype=dtype):
        return torch.randn(*shape).to(DEVICE, dtype).requires_grad_()

    maps = [randn(batch, length, channels) for _ in range(max(sources) + 1)]
    others = [
        randn(batch, scans, length, channels),
        (-torch.rand(scans * channels, states) - 0.1).to(DEVICE).requires_grad_(),
        randn(batch, scans, length, states),
        randn(batch, scans, length, states),
        randn(scans * channels, dtype=torch.float32),
        randn(scans * channels, dtype=torch.float32),
    ]
    return maps, others, make_orders(kinds, batch, length)


NAMES = ('delta', 'A', 'B', 'C', 'D', 'delta_bias')


def relative(actual, expected):
    """The largest error, relative to the largest value."""
    return ((actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()


def compare(kinds, sources, sizes, dtype=torch.float32, chunk_length=0, tolerance=2e-6):
    """Compare the kernels with the reference in float64 on the same numbers: values and all gradients."""
    maps, others, orders = make_inputs(kinds, sources, *sizes, dtype=dtype)
    exact = [x.detach().double().requires_grad_() for x in maps + others]
    exact_maps = [exact[i] for i in sources]
    expected = multi_scan(exact_maps, *exact[len(maps) :], orders, backend='reference')
    actual = multi_scan_triton([maps[i] for i in sources], *others, orders, chunk_length=chunk_length)
    assert actual.dtype == dtype and actual.shape == expected.shape
    assert relative(actual, expected) < tolerance
    weight = torch.randn_like(actual)
    gradients = torch.autograd.grad(actual, maps + others, weight)
    expected_gradients = torch.autograd.grad(expected, exact, weight.double())
    names = [f'map {i}' for i in range(len(maps))] + list(NAMES)
    for name, x, got, want in zip(names, maps + others, gradients, expected_gradients, strict=True):
        assert got.dtype == x.dtype and got.shape == x.shape, name
        assert relative(got, want) < 2 * tolerance, name


@pytest.mark.parametrize(
    ('kinds', 'sources', 'sizes'),
    [
        (['forward'], [0], (1, 7, 3, 4)),
        (['backward', 'forward'], [0, 0], (2, 4, 40, 4)),
        (['forward', 'backward', 'learned'], [0, 0, 1], (2, 6, 24, 16)),
        (['static', 'learned', 'forward', 'backward'], [0, 1, 2, 3], (1, 5, 33, 3)),
        (['static', 'learned', 'forward', 'backward', 'static'], [0, 1, 2, 3, 4], (1, 6, 2, 1)),
        (['learned', 'backward'], [0, 1], (2, 1, 3, 16)),
        (['forward'], [0], (1, 5, 2, 17)),
        (['learned'], [0], (1, 2, 33, 32)),
    ],
    ids=['K1', 'two blocks', 'as the paper', 'four maps', 'five maps', 'L1', 'N17', 'N32'],
)
def test_kernels_match_reference(kinds, sources, sizes):
    compare(kinds, sources, sizes)


def test_keys_of_a_learned_order_get_their_gradient():
    maps, others, _ = make_inputs(['forward', 'learned'], [0, 1], 2, 5, 3, 4)
    keys = torch.randn(2, 5, device=DEVICE)
    order = TokenOrder.from_order(keys.argsort(stable=True))
    received = {}
    for backend, dtype in (('triton', torch.float32), ('reference', torch.float64)):
        given = keys.to(dtype).requires_grad_()
        inputs = [x.detach().to(dtype) for x in maps + others]
        y = multi_scan(inputs[:2], *inputs[2:], [None, TokenOrder(order.order, keys=given)], backend=backend)
        weight = torch.arange(y.numel(), dtype=dtype, device=DEVICE).view_as(y).sin()
        (received[backend],) = torch.autograd.grad((y * weight).sum(), given)
    assert received['reference'].abs().min() > 0
    assert relative(received['triton'], received['reference']) < 1e-5


def test_several_checkpoints_match_reference(monkeypatch):
    monkeypatch.setattr(layout, 'CHECKPOINT', 8)
    compare(['backward', 'learned'], [0, 1], (1, 19, 3, 4))


@pytest.mark.parametrize('chunk_length', [0, 8])
def test_groups_of_states_match_reference_over_checkpoints_and_chunks(chunk_length, monkeypatch):
    """The states and gradients of one group wait in memory while the other passes."""
    monkeypatch.setattr(layout, 'CHECKPOINT', 8)
    compare(['backward'], [0], (1, 10, 2, 18), chunk_length=chunk_length)


@pytest.mark.sweep
@pytest.mark.parametrize('states', [64, 256])
def test_many_states_match_reference(states, monkeypatch):
    monkeypatch.setattr(layout, 'CHECKPOINT', 8)
    compare(['learned', 'backward'], [0, 1], (1, 11, 3, states))


@pytest.mark.parametrize('length', [16, 21])
def test_chunks_match_reference(length, monkeypatch):
    monkeypatch.setattr(layout, 'CHECKPOINT', 8)
    compare(['forward', 'backward', 'learned'], [0, 0, 1], (1, length, 3, 5), chunk_length=8)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_rounds_results_only(dtype):
    eps = torch.finfo(dtype).eps
    compare(['learned', 'backward'], [0, 0], (1, 9, 5, 4), dtype, tolerance=eps)


def test_state_is_float32():
    """Slow decay: the state sums 120 products of about 1, which half precision cannot."""
    u = torch.ones(1, 120, 1, device=DEVICE, dtype=torch.bfloat16)
    delta = torch.full_like(u, 0.55).unsqueeze(1)
    A = torch.full((1, 4), -1e-4, device=DEVICE)
    B = C = torch.ones(1, 1, 120, 4, device=DEVICE, dtype=torch.bfloat16)
    zero = torch.zeros(1, device=DEVICE)
    y = multi_scan([u], delta, A, B, C, zero, zero, [None], backend='triton')
    exact = multi_scan([u.double()], *(x.double() for x in (delta, A, B, C, zero, zero)), [None], backend='reference')
    assert relative(y, exact) < torch.finfo(torch.bfloat16).eps


def test_small_time_steps_keep_their_digits():
    """log2(1 + e) would round them away: at delta = 1e-6 hardly one digit would be right."""
    raw = torch.tensor([-14.0, -7.0, -1.0, 0.0, 1.0, 30.0], device=DEVICE)
    u = torch.ones(1, 1, 6, device=DEVICE)
    ones, zero = torch.ones(1, 1, 1, 1, device=DEVICE), torch.zeros(6, device=DEVICE)
    y = multi_scan_triton([u], raw.view(1, 1, 1, 6), -torch.ones(6, 1, device=DEVICE), ones, ones, zero, zero, [None])
    torch.testing.assert_close(y.flatten().double(), F.softplus(raw.double()), rtol=5e-7, atol=0)


def test_more_scans_than_one_launch_takes():
    kinds = ['learned', 'forward', 'backward', 'forward', 'static', 'forward', 'forward', 'forward', 'static']
    compare(kinds, [0, 0, 0, 1, 0, 0, 0, 0, 1], (1, 2, 2, 2))


def test_strides_do_not_matter():
    maps, (delta, A, B, C, D, bias), orders = make_inputs(['forward', 'learned'], [0, 1], 2, 5, 3, 4)
    expected = multi_scan_triton(maps, delta, A, B, C, D, bias, orders)
    channel_first = [u.transpose(1, 2).contiguous().transpose(1, 2) for u in maps]
    assert channel_first[0].stride(-1) != 1
    parameters = torch.cat([B.new_zeros(2, 2, 5, 2), B, C], dim=-1).transpose(0, 1).contiguous().transpose(0, 1)
    _, B, C = parameters.split([2, 4, 4], dim=-1)
    assert not B.is_contiguous() and B.stride(-1) == 1
    delta = delta.transpose(2, 3).contiguous().transpose(2, 3)
    actual = multi_scan_triton([channel_first[0], maps[1]], delta, A, B, C, D, bias, orders)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize('chunk_length', [0, 8])
def test_scans_may_lie_further_apart_than_32_bits_reach(chunk_length, monkeypatch):
    """As with an image of 14,000 x 14,000 pixels. The 4 GiB between them are never touched, so they need no memory."""
    monkeypatch.setattr(layout, 'CHECKPOINT', 8)
    kinds = ['forward', 'learned', 'backward']
    maps, others, orders = make_inputs(kinds, [0], 1, 11, 3, 4, torch.float16)
    near = others[0].detach()
    apart = 2**30 + 8
    far = torch.empty(2 * apart + near[0, 0].numel(), dtype=near.dtype, device=DEVICE)
    far = far.as_strided(near.shape, (0, apart, 3, 1)).copy_(near)
    results = []
    for delta in (near, far):
        others[0] = delta.requires_grad_()
        y = multi_scan_triton(maps * 3, *others, orders, chunk_length=chunk_length)
        results.append([y, *torch.autograd.grad(y.square().sum(), maps + others)])
    assert far.stride(1) == apart
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_map_of_more_than_32_bits_is_refused():
    check_offsets('u', torch.empty(2, 3, 2**24, 127, device='meta'))
    with pytest.raises(ValueError, match=r'^u \(2, 3, 16777216, 128\) is too large'):
        check_offsets('u', torch.empty(2, 3, 2**24, 128, device='meta'))
    with pytest.raises(ValueError, match='is too large'):  # half of a wider map
        check_offsets('z', torch.empty(2, 2**24, 128, device='meta').split(64, dim=-1)[0])


def test_nan_is_not_hidden():
    maps, others, _ = make_inputs(['forward'], [0], 1, 6, 3, 4)
    others = [x.detach() for x in others]
    for x in (maps[0].detach()[0], others[0][0, 0]):
        before, x[3, 1] = x[3, 1].clone(), float('nan')
        y = multi_scan([maps[0].detach()], *others, [None], backend='triton')
        assert y[0, 0, 3:, 1].isnan().all()
        assert y[0, 0, :3].isfinite().all() and y[..., [0, 2]].isfinite().all()
        x[3, 1] = before


def selective_inputs(groups=2, channels=3, states=4, length=6, batch=2):
    torch.manual_seed(0)
    dims = groups * channels
    shapes = [(batch, dims, length)] * 2 + [(dims, states)] + [(batch, groups, states, length)] * 2 + [(dims,)] * 2
    inputs = dict(zip(('u', *NAMES), (torch.randn(*shape, device=DEVICE) for shape in shapes), strict=True))
    inputs['A'] = -inputs['A'].exp()
    return {name: x.requires_grad_() for name, x in inputs.items()}


@pytest.mark.parametrize('optional', [True, False], ids=['full', 'bare'])
def test_selective_scan_backend_matches_reference(optional):
    inputs = selective_inputs()
    if not optional:
        del inputs['D'], inputs['delta_bias']
        inputs['delta'] = inputs['delta'].detach().abs().requires_grad_()
    exact = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    y = selective_scan(**inputs, delta_softplus=optional, backend='triton')
    expected = selective_scan(**exact, delta_softplus=optional, backend='reference')
    assert relative(y, expected) < 2e-6
    weight = torch.randn_like(y)
    gradients = torch.autograd.grad(y, list(inputs.values()), weight)
    wanted = torch.autograd.grad(expected, list(exact.values()), weight.double())
    for name, got, want in zip(inputs, gradients, wanted, strict=True):
        assert relative(got, want) < 4e-6, name


def test_autocast_does_not_lower_the_precision():
    maps, others, orders = make_inputs(['learned'], [0], 1, 5, 3, 4)
    expected = multi_scan(maps, *others, orders, backend='triton')
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        actual = multi_scan(maps, *others, orders, backend='triton')
        gradient = torch.autograd.grad(actual.sum(), maps[0])[0]
    assert torch.equal(actual, expected)
    assert torch.equal(gradient, torch.autograd.grad(expected.sum(), maps[0])[0])


def registered(maps, others, order, walks):
    """The arguments of the registered operator but for the last, whether it saves states."""
    delta, A, B, C, D, bias = others
    rows = [x.detach().requires_grad_() for x in torch.cat([B, C], dim=-1).unbind(1)]
    return [[u.unsqueeze(1) for u in maps], rows, delta, None, A, D, bias, order, walks, True, False, 0]


def test_states_are_saved_only_for_gradients():
    arguments = registered(*make_inputs(['forward'], [0], 1, 2, 3, 4)[:2], None, [0])
    with torch.no_grad():
        y, states = torch.ops.mmdefmamba.multi_scan(*arguments, False)
        saved_y, saved_states = torch.ops.mmdefmamba.multi_scan(*arguments, True)
    assert states.numel() == 0 and saved_states.shape == (1, 1, 1, 4, 3)
    assert torch.equal(y, saved_y)


def test_backward_without_saved_states_is_refused():
    maps, others, _ = make_inputs(['forward'], [0], 1, 2, 3, 4)
    y, _ = torch.ops.mmdefmamba.multi_scan(*registered(maps, others, None, [0]), False)
    with pytest.raises(RuntimeError, match='save_states=False'):
        y.sum().backward()


def test_backbone_compiles_as_one_graph():
    torch.manual_seed(0)
    arch = {'embed_dims': (4,), 'depths': (1,)}
    model = DefMamba(arch, out_indices=(0,), pretrain_img_size=8, scan_backend='triton').to(DEVICE)
    images = torch.randn(1, 3, 5, 8, device=DEVICE)
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    (actual,) = compiled(images)
    (expected,) = model(images)
    torch.testing.assert_close(actual, expected)
    gradients = torch.autograd.grad(actual.square().sum(), list(model.parameters()))
    for got, want in zip(
        gradients, torch.autograd.grad(expected.square().sum(), list(model.parameters())), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_a_refusal_says_why():
    maps, others, orders = make_inputs(['forward'], [0], 1, 2, 1, 1)
    wide = [x.detach().double() for x in maps + others]
    with pytest.raises(RuntimeError, match="'triton' cannot run: it computes in float32, these are float64"):
        multi_scan(wide[:1], *wide[1:], orders, backend='triton')
    maps, others, orders = make_inputs(['forward'], [0], 1, 2, 1, 300)
    with pytest.raises(RuntimeError, match="'triton' cannot run: it takes at most 256 states, got 300"):
        multi_scan(maps, *others, orders, backend='triton')
    maps, others, orders = make_inputs(['forward'], [0], 1, 2, 1, 1)
    with pytest.raises(ValueError, match='chunk_length must be a multiple of 64, got 3'):
        multi_scan_triton(maps, *others, orders, chunk_length=3)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('sizes', [(2, 3, 35, 40), (1, 1, 1, 1), (1, 5, 7, 2)], ids=str)
def test_merge_matches_reference(sizes, dtype):
    torch.manual_seed(0)
    batch, _, length, channels = sizes
    y = torch.randn(sizes).to(DEVICE, dtype).requires_grad_()
    # as in the DSSM: one half of a linear layer's result
    halves = torch.randn(batch, length, 2 * channels).to(DEVICE, dtype).requires_grad_()
    exact_y, exact_halves = (x.detach().double().requires_grad_() for x in (y, halves))
    actual = merge_scans(y, halves[..., channels:], backend='triton')
    expected = merge_scans(exact_y, exact_halves[..., channels:])
    tolerance = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert actual.dtype == dtype and relative(actual, expected) < tolerance
    weight = torch.randn_like(actual)
    gradients = torch.autograd.grad(actual, (y, halves), weight)
    for got, want in zip(
        gradients, torch.autograd.grad(expected, (exact_y, exact_halves), weight.double()), strict=True
    ):
        assert got.dtype == dtype and relative(got, want) < tolerance


def test_merge_passes_opcheck():
    y, z = torch.randn(2, 3, 5, 4, device=DEVICE), torch.randn(2, 5, 4, device=DEVICE)
    torch.library.opcheck(torch.ops.mmdefmamba.merge_scans.default, (y.requires_grad_(), z.requires_grad_()))


def test_merge_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r'got \(2, 3, 5, 4\) and \(2, 5, 3\)'):
        merge_scans(torch.zeros(2, 3, 5, 4), torch.zeros(2, 5, 3))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == 'cpu', reason='no CUDA device')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ('sizes', 'chunk_length'),
    [
        ((4, 3136, 96, 16), 0),
        ((3, 785, 192, 16), 0),
        ((8, 49, 768, 16), 0),
        ((1, 5000, 96, 16), 512),
        ((2, 70, 40, 64), 0),
    ],
    ids=str,
)
def test_real_sizes_on_cuda(sizes, chunk_length, dtype):
    tolerance = 2e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    compare(['forward', 'backward', 'learned'], [0, 0, 1], sizes, dtype, chunk_length, tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == 'cpu', reason='no CUDA device')
def test_every_run_gives_the_same_bits_on_cuda():
    maps, others, orders = make_inputs(['forward', 'backward', 'learned'], [0, 0, 1], 4, 784, 192, 16)
    results = []
    for _ in range(3):
        y = multi_scan_triton([maps[0], maps[0], maps[1]], *others, orders)
        results.append([y, *torch.autograd.grad(y.square().sum(), maps + others)])
    for again in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(again, results[0], strict=True))
