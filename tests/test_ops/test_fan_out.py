"""A map with several readers: the sum of its gradients from one kernel, on a GPU or in Triton's interpreter."""

import importlib

import pytest
import torch

from mmdefmamba.models import DSSM
from mmdefmamba.ops import use_backend
from mmdefmamba.ops.fan_out import fan_out
from mmdefmamba.ops.triton_maps import sum_maps_triton, sum_op
from mmdefmamba.ops.triton_scan import unavailable_reason
from mmdefmamba.scans import ScanContext

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
REASON = unavailable_reason(torch.zeros(1, device=DEVICE))
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.usefixtures('quick_interpreter'),
]
NOTHING_LEARNED = dict(type='deformable', points=False, offset_bias=False, order=False, channel_attention=False)


def make_maps(count, batch=2, length=7, channels=5, dtype=torch.float32):
    """Maps as a network gives them: a slice between other scans, one number for all tokens, channels first, plain."""
    torch.manual_seed(0)
    made = [
        torch.randn(batch, 3, length, channels)[:, 1],
        torch.randn(batch, 1, channels).expand(batch, length, channels),
        torch.randn(batch, channels, length).transpose(1, 2),
        torch.randn(batch, length, 2 * channels)[..., channels:],
    ]
    made += [torch.randn(batch, length, channels) for _ in range(count)]
    return [x.to(DEVICE, dtype) for x in made[:count]]


@pytest.mark.parametrize('count', [1, 2, 5, 6, 7, 11, 12])  # six at once
def test_the_sum_of_any_number_of_maps_agrees_with_float64(count, monkeypatch):
    monkeypatch.setattr(sum_op, 'BLOCK', 16)  # three blocks, of which the last is not full
    maps = make_maps(count)
    total = sum_maps_triton(maps)
    exact = torch.stack(maps).double().sum(0)
    assert total.is_contiguous() and (total.double() - exact).abs().max() <= 1e-6 * exact.abs().max()


def test_half_precision_is_rounded_once():
    """16 and five times 2^-4, which bfloat16 would lose at each addition to 16."""
    maps = [torch.full((1, 2, 3), x, dtype=torch.bfloat16, device=DEVICE) for x in (16, *5 * [2**-4])]
    total = sum_maps_triton(maps).float()
    assert (total - (16 + 5 * 2**-4)).abs().max() < 0.125  # neighbours of 16 in bfloat16 lie 0.125 apart
    assert (total > 16.1).all()


def test_gradients_of_readers_are_added_and_those_that_are_missing_are_skipped():
    x = torch.randn(2, 5, 3, 4, device=DEVICE, requires_grad=True)
    weights = torch.randn(3, 2, 5, 3, 4, device=DEVICE)
    with use_backend('triton'):
        first, second, _, third = fan_out(x, 4)
        assert all(view.data_ptr() == x.data_ptr() and view is not x for view in (first, second, third))
        loss = (first * weights[0]).sum() + (second * weights[1]).sum() + (third * weights[2]).sum()
        (gradient,) = torch.autograd.grad(loss, x)
        (of_one,) = torch.autograd.grad((fan_out(x, 3)[1] * weights[0]).sum(), x)
    assert torch.allclose(gradient, weights.sum(0), atol=1e-6) and torch.equal(of_one, weights[0])


def test_elsewhere_readers_get_the_map_itself():
    x = torch.randn(1, 2, 3, 4, device=DEVICE, requires_grad=True)
    with use_backend('blockwise'):
        assert all(view is x for view in fan_out(x, 3))
    with use_backend('triton'), torch.no_grad():  # no gradient is needed
        assert all(view is x for view in fan_out(x, 3))


@pytest.mark.parametrize('deformable', ['deformable', NOTHING_LEARNED], ids=['', 'nothing learned'])
def test_gradients_of_a_state_space_model_agree_with_float64(deformable, monkeypatch):
    """All readers of a map at once: two scans and their projections, and the readers of the deformable scan."""
    counts = []
    module = importlib.import_module('mmdefmamba.ops.fan_out')
    monkeypatch.setattr(module, 'sum_maps_triton', lambda maps: counts.append(len(maps)) or sum_maps_triton(maps))
    torch.manual_seed(0)
    model = DSSM(ScanContext(6, 3, (3, 4)), ['raster', 'raster_reverse', deformable], d_state=2).to(DEVICE)
    x, weight = torch.randn(2, 1, 3, 4, 6, device=DEVICE)
    gradients = []
    for backend, dtype in (('triton', torch.float32), ('reference', torch.float64)):
        leaves = [x.to(dtype).requires_grad_(), *model.to(dtype).parameters()]
        with use_backend(backend):
            y = model(leaves[0])
        gradients.append(torch.autograd.grad((y * weight).sum(), leaves))
    # projections, two scans; sampling, convolution and attention, or the third scan
    assert counts == ([6] if deformable == 'deformable' else [4])
    for actual, exact in zip(*gradients, strict=True):
        assert (actual.double() - exact).abs().max() <= 2e-5 * exact.abs().max()


def test_the_operator_is_registered():
    torch.library.opcheck(torch.ops.mmdefmamba.sum_maps, (make_maps(3),), test_utils=('test_schema', 'test_faketensor'))
