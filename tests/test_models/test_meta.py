"""The backbone on meta tensors: shapes without memory, as programs that plan memory or devices ask for."""

import pytest
import torch

from mmdefmamba.models import DefMamba


@pytest.mark.parametrize('formulation', ['paper', 'released'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_meta_tensors_give_shapes_dtypes_and_gradients(formulation, dtype):
    with torch.device('meta'):
        model = DefMamba(dict(embed_dims=(16, 32), depths=(1, 1)), formulation).to(dtype)
        images = torch.empty(2, 3, 33, 18, dtype=dtype)
    maps = model(images)  # outside of the block as well
    assert [tuple(x.shape) for x in maps] == [(2, 16, 9, 5), (2, 32, 5, 3)]
    assert {x.dtype for x in maps} == {dtype} and {x.device.type for x in maps} == {'meta'}
    sum(x.sum() for x in maps).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_order_that_a_meta_block_made_serves_later_images():
    model = DefMamba(dict(embed_dims=(16,), depths=(1,)), scans=['column']).eval()
    images = torch.randn(1, 3, 20, 12)
    fresh = DefMamba(dict(embed_dims=(16,), depths=(1,)), scans=['column']).eval()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        with torch.device('meta'):
            first = model(images)[0]
        assert torch.equal(first, fresh(images)[0]) and torch.equal(model(images)[0], first)
