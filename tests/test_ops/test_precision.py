"""An overflow of float16 becomes its largest number, in every operator and backend. NaN stays NaN."""

import pytest
import torch

from mmdefmamba.ops import merge_scans, multi_scan, selective_scan
from mmdefmamba.ops.native import library
from mmdefmamba.ops.precision import saturate
from mmdefmamba.ops.triton_scan import unavailable_reason

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
WITHOUT_TRITON = unavailable_reason(torch.zeros(1, device=DEVICE)) is not None
NEEDS_TRITON = pytest.mark.skipif(WITHOUT_TRITON, reason='no Triton')
BACKENDS = [
    'reference',
    'blockwise',
    *(['native'] if library.LIBRARY else []),
    pytest.param('triton', marks=NEEDS_TRITON),
]
LIMIT = 65504.0


def test_saturate_clamps_float16_and_clamped_values_get_no_gradient():
    nan, inf = float('nan'), float('inf')
    x = torch.tensor([1.0, -6e4, inf, -inf, nan], dtype=torch.float16, requires_grad=True)
    y = saturate(x)
    assert y[:4].tolist() == [1, -6e4, LIMIT, -LIMIT] and y[4].isnan()
    y[:4].sum().backward()
    assert x.grad.tolist() == [1, 1, 0, 0, 0]
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        wide = torch.tensor([inf, 1e5]).to(dtype)
        assert saturate(wide) is wide


@pytest.mark.usefixtures('quick_interpreter')
@pytest.mark.parametrize('backend', BACKENDS)
def test_no_operator_returns_an_overflow(backend):
    """u = B = C = 1e3 and a time step of 1e3 give 1e12 or more, which bfloat16 holds and float16 does not."""

    def full(*shape, value=1e3):
        return torch.full(shape, value, device=DEVICE, dtype=dtype, requires_grad=True)

    for dtype in (torch.float16, torch.bfloat16):
        A, zero = -torch.ones(2, 3, device=DEVICE), torch.zeros(2, device=DEVICE)
        scanned = selective_scan(full(1, 2, 4), full(1, 2, 4), A, full(1, 1, 3, 4), full(1, 1, 3, 4), backend=backend)
        inputs = full(1, 1, 4, 2), A, full(1, 1, 4, 3), full(1, 1, 4, 3), zero, zero
        several = multi_scan([full(1, 4, 2)], *inputs, [None], backend=backend)
        merged = merge_scans(several, full(1, 4, 2), backend=backend)
        for y in (scanned, several, merged):
            assert y.dtype == dtype
            assert (y == LIMIT).all() if dtype == torch.float16 else (y > 1e12).all() and y.isfinite().all()
