"""The Triton scan from the projections of its maps: time steps are projected inside, and nothing is copied before."""

import pytest
import torch

from mmdefmamba.ops import TokenOrder, gated_multi_scan, merge_scans, multi_scan
from mmdefmamba.ops.map_scan import split_projections
from mmdefmamba.ops.triton_scan import layout, op, projected_scan_triton, unavailable_reason, use_scan_options

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
REASON = unavailable_reason(torch.zeros(1, device=DEVICE))
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.usefixtures('quick_interpreter'),
]
NAMES = ('map 0', 'map 1', 'shared', 'own', 'dt_weight', 'A', 'D', 'delta_bias')


def make_orders(batch, length):
    learned = torch.stack([torch.randperm(length, device=DEVICE) for _ in range(batch)])
    backwards = torch.arange(length, device=DEVICE).flip(0)
    return [None, TokenOrder.from_order(backwards, backwards=True), TokenOrder.from_order(learned)]


def make_inputs(rank, batch=1, length=3, channels=2, states=2, dtype=torch.float32):
    """As a block has them: two scans of the first map share one matrix product; parameters are float32."""
    torch.manual_seed(0)
    columns, rows = rank + 2 * states, 3 * channels

    def randn(*shape, dtype=torch.float32, scale=1.0):
        return (torch.randn(*shape) * scale).to(DEVICE, dtype).requires_grad_()

    maps = [randn(batch, length, channels, dtype=dtype) for _ in range(2)]
    shared, own = (randn(batch, length, n * columns, dtype=dtype) for n in (2, 1))
    A = (-torch.rand(rows, states) - 0.1).to(DEVICE).requires_grad_()
    inputs = [*maps, shared, own, randn(3, channels, rank, scale=rank**-0.5), A, randn(rows), randn(rows)]
    return inputs, make_orders(batch, length)


def arguments(inputs, orders):
    map0, map1, shared, own, weight, *others = inputs
    projected = [*shared.split(own.shape[-1], dim=-1), own]
    return [map0, map0, map1], projected, weight, *others, orders


def reference(inputs, orders, backend='reference'):
    maps, projected, weight, A, D, bias, orders = arguments(inputs, orders)
    delta, B, C = split_projections(projected, weight, A.shape[1])
    return multi_scan(maps, delta, A, B, C, D, bias, orders, backend=backend)


def relative(actual, expected):
    """The largest error, relative to the largest value."""
    return ((actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()


def step(function, inputs, weight):
    y = function(inputs)
    return [y, *torch.autograd.grad(y, inputs, weight.to(y.dtype))]


def errors(inputs, orders, function):
    """Of the result and each gradient: the largest error against float64 on the same numbers."""
    exact = [x.detach().double().requires_grad_() for x in inputs]
    weight = torch.randn(len(inputs[0]), 3, *inputs[0].shape[1:]).to(DEVICE, inputs[0].dtype)
    expected = step(lambda inputs: reference(inputs, orders), exact, weight)
    actual = step(function, inputs, weight)
    for x, got in zip([inputs[0].unsqueeze(1).expand_as(weight), *inputs], actual, strict=True):
        assert got.dtype == x.dtype and got.shape == x.shape
    return {name: relative(*pair) for name, pair in zip(('y', *NAMES), zip(actual, expected, strict=True), strict=True)}


@pytest.mark.parametrize(
    ('rank', 'dtype', 'sizes'),
    [
        (6, torch.float32, dict(length=5, channels=3, states=3)),
        (6, torch.bfloat16, {}),
        (8, torch.float16, {}),
        (12, torch.float32, dict(batch=2, length=1, channels=1)),
        (12, torch.bfloat16, dict(channels=33, length=1)),
        (16, torch.float32, dict(length=2)),
        (1, torch.float32, dict(length=2)),
        (24, torch.float32, {}),
    ],
    ids=str,
)
def test_values_and_gradients_match_float64(rank, dtype, sizes):
    inputs, orders = make_inputs(rank, dtype=dtype, **sizes)
    found = errors(inputs, orders, lambda inputs: projected_scan_triton(*arguments(inputs, orders)))
    # the gradient of the time steps is rounded before it is multiplied, as a linear layer does
    tolerance = 4e-6 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    assert max(found.values()) < tolerance, found


def test_numbers_are_as_good_as_those_of_separate_steps():
    """In bfloat16 the separate steps round the time step. Inside the scan it is float32."""
    inputs, orders = make_inputs(6, length=6, channels=4, dtype=torch.bfloat16)
    found = errors(inputs, orders, lambda inputs: projected_scan_triton(*arguments(inputs, orders)))

    def separate(inputs):
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            return reference(inputs, orders, 'triton')

    before = errors(inputs, orders, separate)
    # both round the gradient of the time step once, and each result once
    eps = torch.finfo(torch.bfloat16).eps
    assert all(found[name] < max(before[name], eps) for name in found), (found, before)
    assert found['map 0'] < before['map 0'] / 2
    assert all(found[name] < 1e-6 < 1e-4 < before[name] for name in ('A', 'delta_bias'))


@pytest.mark.parametrize('chunks', [1, 2])
def test_checkpoints_and_chunks(chunks, monkeypatch):
    monkeypatch.setattr(layout, 'CHECKPOINT', 8)
    monkeypatch.setattr(op, 'MAX_SCANS', 2)  # two launches
    inputs, orders = make_inputs(2, length=9, channels=1, states=1)
    with use_scan_options(chunks=chunks):
        found = errors(inputs, orders, lambda inputs: projected_scan_triton(*arguments(inputs, orders)))
    assert max(found.values()) < 4e-6, found


def test_a_larger_rank_than_the_option_allows_is_a_product_before_the_scan():
    inputs, orders = make_inputs(3, length=2)
    weight = torch.randn(1, 3, 2, 2, device=DEVICE)
    results = []
    for largest_rank in (16, 2, 0):
        with use_scan_options(largest_rank=largest_rank):
            results.append(step(lambda inputs: projected_scan_triton(*arguments(inputs, orders)), inputs, weight))
    for other in results[1:]:
        for actual, expected in zip(other, results[0], strict=True):
            torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('order_dtype', [torch.int32, torch.int64], ids=str)
def test_projections_and_a_single_order_are_read_where_they_lie(order_dtype, monkeypatch):
    from mmdefmamba.ops.triton_scan import launch

    inputs, (*others, learned) = make_inputs(6, batch=2, length=4, channels=3)
    orders = [*others, TokenOrder(learned.order.to(order_dtype))]
    expected = reference(inputs, [*others, learned], 'triton')
    seen = {}
    kernel = launch.scan_forward

    class Recorder:
        def __getitem__(self, grid):
            def run(*args, **constants):
                seen.update(zip(kernel.arg_names, args, strict=False))
                kernel[grid](*args, **constants)

            return run

    monkeypatch.setattr(launch, 'scan_forward', Recorder())
    with torch.no_grad():
        actual = projected_scan_triton(*arguments(inputs, orders))
    torch.testing.assert_close(actual, expected)
    shared, own = (x.data_ptr() for x in inputs[2:4])
    assert [seen[f'rows{i}'].data_ptr() for i in range(3)] == [shared, shared + 4 * 10, own]
    assert [seen[f'rows{i}_l'] for i in range(3)] == [20, 20, 10]
    assert seen['delta'] is None and seen['dt_weight'].data_ptr() == inputs[4].data_ptr()
    assert seen['order'].data_ptr() == orders[2].order.data_ptr() and seen['order'].dtype == order_dtype


def test_the_kernels_compute_the_rates_from_their_logarithms():
    """States and channels that do not fill their blocks: what lies outside of A_log must not become a rate of -1."""
    inputs, orders = make_inputs(3, length=5)
    maps, projected, weight, A, *others = arguments(inputs, orders)
    A_log = (-A.detach()).log().requires_grad_()
    exact = A_log.detach().double().requires_grad_()
    y = projected_scan_triton(maps, projected, weight, A_log, *others, log_rates=True)
    inputs = [x.detach().double() for x in inputs]
    inputs[5] = -exact.exp()
    expected = reference(inputs, orders)
    assert relative(y, expected) < 2e-6
    gradient = torch.randn_like(y)
    actual = torch.autograd.grad(y, A_log, gradient)[0]
    assert relative(actual, torch.autograd.grad(expected, exact, gradient.double())[0]) < 2e-6


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_the_gated_multi_scan_takes_this_way(dtype, monkeypatch):
    monkeypatch.setattr(op.torch, 'cat', None)  # nothing is copied together
    inputs, orders = make_inputs(6, length=2, dtype=dtype)
    z = torch.randn(1, 2, 2).to(DEVICE, dtype)
    with torch.no_grad(), torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=dtype != torch.float32):
        maps, projected, weight, A, D, bias, orders = arguments(inputs, orders)
        actual = gated_multi_scan(maps, projected, weight, A, D, bias, z, orders, backend='triton')
    exact = [x.detach().double() for x in inputs]
    expected = merge_scans(reference(exact, orders), z.double())
    assert actual.dtype == dtype
    assert relative(actual, expected) < (2e-6 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps)


@pytest.mark.sweep
def test_the_operator_passes_opcheck():
    rows = [torch.randn(1, 2, 3 + 2, device=DEVICE).requires_grad_()]
    weight = torch.randn(1, 1, 3, device=DEVICE, requires_grad=True)
    u, A, D, bias = (torch.randn(s, device=DEVICE, requires_grad=True) for s in ((1, 1, 2, 1), (1, 1), (1,), (1,)))
    order = torch.tensor([[[1, 0]]], dtype=torch.int32, device=DEVICE)
    torch.library.opcheck(op._multi_scan, ([u], rows, None, weight, A, D, bias, order, [1 << 3], True, False, 0, True))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == 'cpu', reason='no CUDA device')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('sizes', [(4, 3136, 96), (3, 784, 192), (8, 196, 384), (8, 49, 768)], ids=str)
@pytest.mark.usefixtures('whole_float32')
def test_real_sizes_on_cuda(sizes, dtype):
    batch, length, channels = sizes
    inputs, orders = make_inputs(channels // 16, batch, length, channels, 16, dtype)
    results = [errors(inputs, orders, lambda inputs: projected_scan_triton(*arguments(inputs, orders)))]
    tolerance = 4e-5 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    assert max(results[0].values()) < tolerance, results
    weight = torch.randn(batch, 3, length, channels, device=DEVICE)
    again = [step(lambda i: projected_scan_triton(*arguments(i, orders)), inputs, weight) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*again, strict=True)), 'not the same bits in every run'
