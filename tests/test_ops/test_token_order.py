import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmdefmamba.ops import TokenOrder, learned_order, permute_tokens, restore_tokens
from mmdefmamba.scans import build_scan


def make(batch=2, channels=3, length=7, shared=False, dtype=torch.int64):
    tokens = torch.randn(batch, length, channels, dtype=torch.float64, requires_grad=True)
    order = torch.stack([torch.randperm(length) for _ in range(batch)]).to(dtype)
    return tokens, TokenOrder.from_order(order[0] if shared else order)


@pytest.mark.parametrize('dtype', [torch.int64, torch.int32], ids=['int64', 'int32'])
@pytest.mark.parametrize('shared', [True, False], ids=['one order', 'one order per image'])
def test_permute_and_restore(shared, dtype):
    tokens, order = make(shared=shared, dtype=dtype)
    assert order.order.dtype == order.inverse.dtype == dtype
    sequence = permute_tokens(tokens, order)
    for b in range(len(tokens)):
        places = order.order if shared else order.order[b]
        assert torch.equal(sequence[b], tokens[b][places])
    assert torch.equal(restore_tokens(sequence, order), tokens)
    assert torch.autograd.gradcheck(lambda t: permute_tokens(t, order), tokens)
    assert torch.autograd.gradcheck(lambda t: restore_tokens(t, order), tokens)


def test_no_order_leaves_tokens_where_they_are():
    tokens, _ = make()
    assert permute_tokens(tokens, None) is tokens and restore_tokens(tokens, None) is tokens


@pytest.mark.parametrize('dtype', [torch.int64, torch.int32], ids=['int64', 'int32'])
def test_gradient_of_the_order_by_hand(dtype):
    """Three tokens a, b, c are scanned as c, a, b. The gradient at their places is chosen, the rest follows by hand."""
    x = torch.tensor([[[[1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0]]]], requires_grad=True)
    offset = torch.zeros(1, 3, requires_grad=True)
    order = TokenOrder.from_order(torch.tensor([[2, 0, 1]], dtype=dtype))
    g = torch.tensor([[[[20.0, 30.0, 10.0]], [[4.0, 6.0, 2.0]]]])

    y = learned_order(x, offset, order, 'paper')
    assert torch.equal(y, x)
    grad_x, grad_offset = torch.autograd.grad(y, (x, offset), g)
    assert torch.equal(grad_x, g)
    # the sequence's gradient, c then a then b, is (10, 2), (20, 4), (30, 6)
    assert grad_offset.tolist() == [[6, 12, 18]]

    y = learned_order(x, offset, order, 'released')
    grad_x, grad_offset = torch.autograd.grad(y, (x, offset), g)
    assert torch.equal(grad_x, g)
    # mean over channels of (that - the gradient at the place): (10-20 + 2-4)/2, (20-30 + 4-6)/2, (30-10 + 6-2)/2
    assert grad_offset.tolist() == [[-6, -6, 12]]


def test_unknown_gradient_is_refused():
    _, order = make()
    with pytest.raises(ValueError, match="got 'soft'"):
        learned_order(torch.zeros(2, 3, 1, 7), torch.zeros(2, 7), order, 'soft')


def test_a_permutation_may_have_any_integers_and_nothing_else():
    order = TokenOrder.from_order(torch.tensor([2, 0, 1], dtype=torch.int16))
    assert order.order.tolist() == [2, 0, 1] and order.inverse.tolist() == [1, 2, 0]
    with pytest.raises(ValueError, match=r'must hold integers, got torch.float32'):
        TokenOrder.from_order(torch.rand(3))


def test_an_order_is_one_sort_and_its_inverse_is_computed_when_it_is_read(record_operators):
    keys = torch.tensor([[0.5, -1.0, 0.5, 0.0]], requires_grad=True)
    with record_operators() as recorder:
        order = TokenOrder.from_keys(keys)
    assert recorder.names.count('sort') == 1 and not {'scatter', 'scatter_', 'arange'} & set(recorder.names)
    assert order.order.tolist() == [[1, 3, 0, 2]] and order.keys is None
    assert order.inverse.tolist() == [[2, 0, 3, 1]] and order.inverse is order.inverse
    assert TokenOrder.from_keys(keys, with_gradient=True).keys is keys


def test_orders_on_a_gpu_have_32_bits(record_operators):
    """Tensors without memory show the operators that run on a GPU."""
    with FakeTensorMode(), record_operators() as recorder:
        order = TokenOrder.from_keys(torch.empty(2, 9, device='cuda')).order
    assert order.dtype == torch.int32 and recorder.names[-2:] == ['sort', '_to_copy']


def test_the_cached_orders_of_static_scans_are_complete():
    """An inverse computed later, in inference mode or in a CUDA graph, would break a training after it."""
    with torch.inference_mode():
        order = build_scan('column', None).token_order(2, 3, torch.device('cpu'))
        assert order.order.tolist() == [0, 3, 1, 4, 2, 5] and order.inverse.tolist() == [0, 2, 4, 1, 3, 5]
    assert not order.order.is_inference() and not order.inverse.is_inference()
