import pytest
import torch

from mmdefmamba.ops import TokenOrder, order_by_index, permute_tokens, restore_tokens


def make(batch=2, channels=3, length=7, shared=False):
    tokens = torch.randn(batch, channels, length, dtype=torch.float64, requires_grad=True)
    order = torch.stack([torch.randperm(length) for _ in range(batch)])
    return tokens, TokenOrder.from_order(order[0] if shared else order)


@pytest.mark.parametrize('shared', [True, False], ids=['one order', 'an order each'])
def test_permute_and_restore(shared):
    tokens, order = make(shared=shared)
    sequence = permute_tokens(tokens, order)
    for b in range(len(tokens)):
        places = order.order if shared else order.order[b]
        assert torch.equal(sequence[b], tokens[b][:, places])
    assert torch.equal(restore_tokens(sequence, order), tokens)
    assert torch.autograd.gradcheck(lambda t: permute_tokens(t, order), tokens)
    assert torch.autograd.gradcheck(lambda t: restore_tokens(t, order), tokens)


def test_gradient_of_the_order_by_hand():
    """Three tokens a, b, c scanned as c, a, b; the sequence's gradient is chosen, the rest worked out by hand."""
    tokens = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]], requires_grad=True)
    offset = torch.zeros(1, 3, requires_grad=True)
    order = TokenOrder.from_order(torch.tensor([[2, 0, 1]]))
    g = torch.tensor([[[10.0, 20.0, 30.0], [2.0, 4.0, 6.0]]])

    sequence = order_by_index(tokens, offset, order, 'paper')
    assert sequence.tolist() == [[[3, 1, 2], [6, 4, 5]]]
    grad_tokens, grad_offset = torch.autograd.grad(sequence, (tokens, offset), g)
    # a stands second in the sequence, b third, c first
    assert grad_tokens.tolist() == [[[20, 30, 10], [4, 6, 2]]]
    assert grad_offset.tolist() == [[6, 12, 18]]

    sequence = order_by_index(tokens, offset, order, 'released')
    grad_tokens, grad_offset = torch.autograd.grad(sequence, (tokens, offset), g)
    assert grad_tokens.tolist() == [[[20, 30, 10], [4, 6, 2]]]
    # mean over channels of (g - g at each token's own place): (10-20 + 2-4)/2, (20-30 + 4-6)/2, (30-10 + 6-2)/2
    assert grad_offset.tolist() == [[-6, -6, 12]]


def test_unknown_gradient_is_refused():
    tokens, order = make()
    with pytest.raises(ValueError, match="got 'soft'"):
        order_by_index(tokens, torch.zeros(2, 7), order, 'soft')
