"""The multi-scan against its contract, which is written a second time here as a walk from place to place."""

import pytest
import torch
import torch.nn.functional as F

from mmdefmamba.ops import TokenOrder, multi_scan


def walk(maps, delta, A, B, C, D, delta_bias, orders):
    channels = maps[0].shape[-1]
    results = []
    for k, u in enumerate(maps):
        of_k = slice(k * channels, (k + 1) * channels)
        rows = []
        for b, u_b in enumerate(u):
            order = orders[k]
            places = range(len(u_b)) if order is None else order.order.expand(len(u), -1)[b].tolist()
            state, y = torch.zeros_like(A[of_k]), [None] * len(u_b)
            for p in places:
                dt = F.softplus(delta[b, k, p] + delta_bias[of_k]).unsqueeze(-1)
                state = torch.exp(dt * A[of_k]) * state + dt * B[b, k, p] * u_b[p].unsqueeze(-1)
                y[p] = state @ C[b, k, p] + D[of_k] * u_b[p]
            rows.append(torch.stack(y))
        results.append(torch.stack(rows))
    return torch.stack(results, dim=1)


def orders_of(kinds, batch, length):
    backwards = TokenOrder.from_order(torch.arange(length).flip(0), backwards=True)
    made = {
        'forward': lambda: None,
        'backward': lambda: backwards,
        'static': lambda: TokenOrder.from_order(torch.randperm(length)),
        'learned': lambda: TokenOrder.from_order(torch.stack([torch.randperm(length) for _ in range(batch)])),
    }
    return [made[kind]() for kind in kinds]


def make_inputs(num_scans, batch, length, channels=3, states=4, sources=None):
    def randn(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    distinct = [randn(batch, length, channels) for _ in range(max(sources or range(num_scans)) + 1)]
    rows = num_scans * channels
    others = [
        randn(num_scans, batch, length, channels).transpose(0, 1),
        -torch.rand(rows, states, dtype=torch.float64) - 0.1,
        randn(batch, num_scans, length, states),
        randn(batch, num_scans, length, states),
        randn(rows),
        randn(rows),
    ]
    for x in distinct + others:
        x.requires_grad_()
    return distinct, [distinct[i] for i in sources or range(num_scans)], others


@pytest.mark.parametrize('backend', ['reference', 'blockwise'])
@pytest.mark.parametrize(
    ('kinds', 'sources'),
    [
        (['forward'], [0]),
        (['learned'], [0]),
        (['forward', 'backward', 'learned'], [0, 0, 1]),
        (['static', 'learned', 'forward', 'backward', 'static'], [0, 1, 0, 0, 2]),
    ],
    ids=['K1', 'K1 learned', 'K3 as the paper', 'K5'],
)
@pytest.mark.parametrize(('batch', 'length'), [(2, 7), (1, 1), (1, 66)])
def test_multi_scan_walks_each_map_in_its_order(backend, kinds, sources, batch, length):
    torch.manual_seed(0)
    distinct, maps, others = make_inputs(len(kinds), batch, length, sources=sources)
    orders = orders_of(kinds, batch, length)
    y = multi_scan(maps, *others, orders, backend=backend)
    expected = walk(maps, *others, orders)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
    weight = torch.randn_like(y)
    leaves = distinct + others
    for got, want in zip(
        torch.autograd.grad(y, leaves, weight), torch.autograd.grad(expected, leaves, weight), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda a: a.update(orders=a['orders'][:1]), 'one order per map, got 2 maps and 1 orders'),
        (lambda a: a.update(maps=[m[0] for m in a['maps']]), r'maps must be \(batch, L, channels\), .* got \(5, 3\)'),
        (lambda a: a['maps'].__setitem__(1, a['maps'][1].float()), 'maps must share shape and dtype'),
        (lambda a: a.update(delta=a['delta'][:, :1]), r'delta must be \(2, 2, 5, 3\) to fit 2 maps'),
        (lambda a: a.update(B=a['B'][:, :, :4]), r'B must be \(2, 2, 5, 4\) to fit 2 maps'),
        (lambda a: a['orders'].__setitem__(0, TokenOrder.from_order(torch.arange(4))), r'an order must be \(5,\) or'),
        (lambda a: a['orders'].__setitem__(0, torch.arange(5)), r'got a Tensor: TokenOrder.from_order\(...\) makes'),
        (lambda a: a['orders'].__setitem__(0, TokenOrder(torch.rand(5), None)), 'hold integers of .*got torch.float32'),
        (lambda a: a.update(maps=[m[:0] for m in a['maps']]), r'at least 1, got \(0, 5, 3\)'),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_their_sizes(change, message):
    _, maps, (delta, A, B, C, D, delta_bias) = make_inputs(2, 2, 5)
    arguments = dict(maps=maps, delta=delta, A=A, B=B, C=C, D=D, delta_bias=delta_bias, orders=[None, None])
    change(arguments)
    with pytest.raises(ValueError, match=message):
        multi_scan(**arguments)


def test_a_scan_without_skip_is_refused_by_name():
    """Unlike ``selective_scan``, where D and delta_bias may be None."""
    _, maps, (delta, A, B, C, _, delta_bias) = make_inputs(2, 2, 5)
    with pytest.raises(TypeError, match='D must be a floating point tensor, got None'):
        multi_scan(maps, delta, A, B, C, None, delta_bias, [None, None])
