import pytest
import torch
from torch import nn

from mmdefmamba.models import DefMamba
from mmdefmamba.paper.formulations import POINTS, as_paper
from mmdefmamba.paper.instances import attributes_replaced


class Doubled(nn.Module):
    rate = 2

    def value(self):
        return self.rate


def test_attributes_of_one_instance_are_replaced_and_restored():
    changed, other = Doubled(), Doubled()
    changed.own = 'before'
    with attributes_replaced(changed, value=lambda: 5, own='within', rate=3):
        assert (changed.value(), changed.own, changed.rate) == (5, 'within', 3)
        assert (other.value(), Doubled.rate) == (2, 2)
    assert (changed.value(), changed.own) == (2, 'before')
    assert {'value', 'rate'}.isdisjoint(vars(changed))


def test_attributes_are_restored_after_an_error_and_when_nested():
    changed = Doubled()
    with pytest.raises(RuntimeError, match='stop'), attributes_replaced(changed, value=lambda: 5):
        with attributes_replaced(changed, value=lambda: 7):
            assert changed.value() == 7
        assert changed.value() == 5
        raise RuntimeError('stop')
    assert changed.value() == 2


def test_formulation_changes_only_the_given_model_and_is_restored_after_an_error():
    torch.manual_seed(0)
    arch = {'embed_dims': (8,), 'depths': (1,)}
    given, other = (DefMamba(arch, formulation='released', out_indices=0, pretrain_img_size=32) for _ in range(2))
    for parameter in (*given.parameters(), *other.parameters()):
        parameter.data *= 3  # with the initial weights the formulations hardly differ
    other.load_state_dict(given.state_dict())
    images = torch.randn(1, 3, 32, 32)
    (before,) = given(images)
    attributes = [dict(vars(module)) for module in given.modules()]
    with pytest.raises(RuntimeError, match='stop'), as_paper(given, POINTS):
        assert torch.equal(other(images)[0], before)
        assert (given(images)[0] - before).abs().max() > 1e-3
        raise RuntimeError('stop')
    assert [dict(vars(module)) for module in given.modules()] == attributes
    assert torch.equal(given(images)[0], before)
