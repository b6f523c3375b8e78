"""The split of a matrix product into columns, on a GPU or in Triton's interpreter."""

import pytest
import torch

from mmdefmamba.ops import use_backend
from mmdefmamba.ops.columns import split_columns
from mmdefmamba.ops.triton_scan import unavailable_reason

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
REASON = unavailable_reason(torch.zeros(1, device=DEVICE))
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def joined(parts, size):
    """Return the gradient of a tensor whose columns get these gradients."""
    x = torch.zeros(*parts[0].shape[:-1], size * len(parts), device=DEVICE, requires_grad=True)
    with use_backend('triton'):
        columns = split_columns(x, size)
        assert [part.data_ptr() for part in columns] == [x.data_ptr() + 4 * size * i for i in range(len(parts))]
        (gradient,) = torch.autograd.grad(columns, x, parts)
    return gradient


def test_gradients_that_lie_side_by_side_are_not_copied():
    wide = torch.randn(2, 7, 4, 3, device=DEVICE)
    parts = wide.unbind(2)
    of_two = joined(parts[1:3], 3)
    assert torch.equal(of_two, wide[:, :, 1:3].flatten(2)) and of_two.data_ptr() == parts[1].data_ptr()
    of_one = joined(parts[3:], 3)
    assert torch.equal(of_one, parts[3]) and of_one.data_ptr() == parts[3].data_ptr()


@pytest.mark.parametrize('kind', ['in another order', 'with a gap', 'of two tensors', 'transposed'])
def test_other_gradients_are_copied(kind):
    wide = torch.randn(2, 7, 4, 3, device=DEVICE)
    one, two, three, _ = wide.unbind(2)
    parts = {
        'in another order': (two, one),
        'with a gap': (one, three),
        'of two tensors': (one, two.clone()),
        'transposed': tuple(x.mT for x in (one, two)),
    }[kind]
    gradient = joined(parts, parts[0].shape[-1])
    assert torch.equal(gradient, torch.cat(parts, dim=-1)) and gradient.data_ptr() != parts[0].data_ptr()


def test_a_part_without_a_gradient_counts_as_zero():
    x = torch.zeros(2, 6, device=DEVICE, requires_grad=True)
    with use_backend('triton'):
        split_columns(x, 3)[1].sum().backward()
    assert x.grad.tolist() == 2 * [[0.0, 0, 0, 1, 1, 1]]
