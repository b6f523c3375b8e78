"""Kernels around the scans as Triton compiles them for an H100, in the emulator, against float64.

Every test also fails on an access out of bounds, on a read of unwritten memory, on a race, and on an unwritten result.
"""

import pytest
import torch
import torch.nn.functional as F

from mmdefmamba.ops.triton_maps import (
    add_norm_triton,
    bias_gelu_triton,
    gelu_op,
    norm_op,
    offset_head_triton,
    sum_maps_triton,
)

pytestmark = pytest.mark.ptx
SWEEP = pytest.mark.sweep
DTYPES = [torch.bfloat16, pytest.param(torch.float32, marks=SWEEP), pytest.param(torch.float16, marks=SWEEP)]
#: What PyTorch's own results may differ by, relative to the largest value
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def check(function, plain, inputs, dtype):
    """Compare results and all gradients with those in float64."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    results, expected = function(*leaves), plain(*exact)
    weights = [torch.randn_like(y) for y in results]
    gradients = torch.autograd.grad(results, leaves, weights)
    of_exact = torch.autograd.grad(expected, exact, [w.double() for w in weights])
    for i, (x, want) in enumerate(zip([*results, *gradients], [*expected, *of_exact], strict=True)):
        assert (x.double() - want).abs().max() < 2 * TOLERANCE[dtype] * want.abs().max(), i


def check_launches(emulator, names):
    assert {launch.kernel for launch in emulator.launches} == set(names)
    assert not any(launch.unwritten for launch in emulator.launches)
    # all lanes that write a sum to one place have the same bits
    assert not any(launch.rounding for launch in emulator.launches)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('rows', [37, pytest.param(1, marks=SWEEP)])
def test_bias_and_gelu(emulator, monkeypatch, rows, dtype):
    """Rows and channels that do not fill their last block; programs that add up several blocks of rows."""
    monkeypatch.setattr(gelu_op, 'MAX_PROGRAMS', 4)
    torch.manual_seed(0)
    inputs = torch.randn(rows, 131).to(dtype), torch.randn(131)
    check(lambda x, b: [bias_gelu_triton(x, b)], lambda x, b: [F.gelu(x + b)], inputs, dtype)
    check_launches(emulator, ['gelu_forward', 'gelu_backward'])


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_addition_and_norm(emulator, monkeypatch, dtype):
    """Rows that do not fill the last program, and programs with several tiles. The residual stream is float32."""
    monkeypatch.setattr(norm_op, 'MAX_PROGRAMS', 2)
    monkeypatch.setattr(norm_op, 'NUMBERS', 512)
    torch.manual_seed(0)
    inputs = torch.randn(2, 13, 48) + 3, torch.randn(2, 13, 48).to(dtype), *torch.randn(2, 48)
    scale = torch.tensor([1.25, 0.0])

    def plain(x, branch, weight, bias):
        total = x + branch * scale.double().view(2, 1, 1)
        return total, F.layer_norm(total, (48,), weight, bias, 1e-5)

    check(lambda x, b, *p: add_norm_triton(x, b, scale, *p, 1e-5, dtype), plain, inputs, dtype)
    check_launches(emulator, ['norm_forward', 'norm_backward'])


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_sum_of_maps(emulator, dtype):
    """A slice between others, one number for all tokens of an image, and a last block that is not full."""
    torch.manual_seed(0)
    wide, flat = torch.randn(2, 3, 41, 35).to(dtype), torch.randn(2, 1, 35).to(dtype).expand(2, 41, 35)
    maps = [wide[:, 1], wide[:, 2], flat, wide[:, 0], torch.randn(2, 41, 70).to(dtype)[..., 35:], wide[:, 1]]
    total, exact = sum_maps_triton(maps), torch.stack(maps).double().sum(0)
    assert (total.double() - exact).abs().max() < TOLERANCE[dtype] * exact.abs().max()
    check_launches(emulator, ['sum_maps'])


def test_the_mean_of_large_numbers_is_rounded_once(emulator):
    """With the plain division of compiled kernels the keys are off by 1.7e-4; a mean near 1000 is rounded by 3e-5."""
    torch.manual_seed(0)
    x = 1000 + torch.randn(1, 12, 100)
    ones, proj = torch.ones(100), torch.randn(1, 100) / 10
    options = (1e-5, (3, 4), False, True, False, True)
    keys = offset_head_triton(x, None, ones, 0 * ones, proj, *options)[1].double()
    normal = F.layer_norm(x.double(), (100,), eps=1e-5)
    exact = (F.gelu(normal) @ proj.double().t()).tanh().squeeze(-1) + torch.arange(12).double() / 11 * 2 - 1
    assert (keys - exact).abs().max() < 8e-5
    check_launches(emulator, ['head_forward'])
