"""The gradient of an order by swaps, against the loss when two tokens are really swapped."""

import pytest
import torch
import torch.nn.functional as F

from mmdefmamba.ops import TokenOrder
from mmdefmamba.ops.map_scan import multi_scan
from mmdefmamba.ops.map_scan.swap_gradient import swap_gains

BATCH, CHANNELS, STATES, SCANS = 2, 3, 4, 2


def make(length, seed=0):
    g = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    maps = [randn(BATCH, length, CHANNELS) for _ in range(SCANS)]
    delta = randn(BATCH, SCANS, length, CHANNELS)
    A = -randn(SCANS * CHANNELS, STATES).exp()
    B, C = randn(BATCH, SCANS, length, STATES), randn(BATCH, SCANS, length, STATES)
    D, bias = randn(SCANS * CHANNELS), randn(SCANS * CHANNELS)
    keys = randn(BATCH, length)
    grad = randn(BATCH, SCANS, length, CHANNELS)
    return (maps, delta, A, B, C, D, bias), keys, grad


def swapped(order, i):
    order = order.clone()
    order[:, [i, i + 1]] = order[:, [i + 1, i]]
    return TokenOrder.from_order(order)


def measured_gains(inputs, order, grad):
    """<grad, y> of each image with two steps swapped, minus <grad, y> without: (batch, L - 1)."""
    # the second scan has the learned order, the first runs row by row
    base = (multi_scan(*inputs, [None, TokenOrder.from_order(order)]) * grad).sum((1, 2, 3))
    gains = []
    for i in range(order.shape[1] - 1):
        gains.append((multi_scan(*inputs, [None, swapped(order, i)]) * grad).sum((1, 2, 3)) - base)
    return torch.stack(gains, dim=1) if gains else base.new_zeros(BATCH, 0)


@pytest.mark.parametrize('length', [1, 2, 7])
def test_gains_equal_the_change_of_the_loss_when_tokens_are_swapped(length):
    inputs, keys, grad = make(length)
    maps, delta, A, B, C, _, bias = inputs
    order = keys.argsort()
    rows = torch.arange(BATCH).unsqueeze(1)

    def second(x):
        return x[:, 1][rows, order]

    gains = swap_gains(
        maps[1][rows, order],
        F.softplus(second(delta) + bias[CHANNELS:]),
        A[CHANNELS:],
        second(B),
        second(C),
        second(grad),
    )
    torch.testing.assert_close(gains, measured_gains(inputs, order, grad), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('length', [1, 2, 9])
def test_keys_receive_the_gradient_of_the_smoothed_loss(length):
    inputs, keys, grad = make(length)
    keys.requires_grad_()
    order = TokenOrder.from_order(keys.detach().argsort())
    y = multi_scan(*inputs, [None, TokenOrder(order.order, keys=keys)])
    assert torch.equal(y, multi_scan(*inputs, [None, order]))
    (received,) = torch.autograd.grad((y * grad).sum(), keys)

    gains = measured_gains(inputs, order.order, grad)
    sorted_keys = keys.gather(1, order.order)
    smoothed = (torch.sigmoid((sorted_keys[:, :-1] - sorted_keys[:, 1:]) * (length - 1) / 2) * gains).sum()
    (expected,) = torch.autograd.grad(smoothed, keys)
    torch.testing.assert_close(received, expected, rtol=1e-9, atol=1e-12)


def test_keys_do_not_change_the_other_gradients():
    grads = []
    for with_keys in (False, True):
        (maps, *rest), keys, grad = make(6)
        leaves = [*maps, *rest]
        for leaf in leaves:
            leaf.requires_grad_()
        order = TokenOrder.from_order(keys.argsort())
        order = TokenOrder(order.order, keys=keys.requires_grad_()) if with_keys else order
        y = multi_scan(maps, *rest, [None, order])
        grads.append(torch.autograd.grad((y * grad).sum(), leaves))
    for without, with_keys in zip(*grads, strict=True):
        assert torch.equal(without, with_keys)
