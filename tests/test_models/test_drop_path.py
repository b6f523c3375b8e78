"""Stochastic depth gives the numbers of mmcv's module, from the same random numbers."""

import pytest
import torch
from mmcv.cnn.bricks import DropPath as OfMMCV

from mmdefmamba.models.drop_path import DropPath


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('drop_prob', [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize('shape', [(64,), (64, 3), (64, 2, 3, 4)], ids=str)
def test_numbers_are_those_of_mmcv(shape, dtype, drop_prob, training):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    results = []
    for kind in (OfMMCV, DropPath):
        torch.manual_seed(1)
        y = kind(drop_prob).train(training)(x)
        results.append([y, torch.autograd.grad(y.square().sum(), x)[0], torch.get_rng_state()])
    for expected, actual in zip(*results, strict=True):
        assert actual.dtype == expected.dtype and torch.equal(actual, expected)


def test_whole_samples_are_dropped_and_the_rest_is_scaled_up():
    torch.manual_seed(0)
    y = DropPath(0.25)(torch.ones(10_000, 2, 2))
    kept = y[:, 0, 0] != 0
    assert torch.equal(y, torch.where(kept, 1 / 0.75, 0.0).view(-1, 1, 1).expand_as(y))
    assert kept.double().mean().item() == pytest.approx(0.75, abs=0.02)


def test_input_passes_unchanged_where_nothing_can_be_dropped():
    x = torch.ones(3, 2)
    assert DropPath(0.0)(x) is x and DropPath(0.5).eval()(x) is x
    assert DropPath().drop_prob == 0 and 'drop_prob=0.5' in repr(DropPath(0.5))
