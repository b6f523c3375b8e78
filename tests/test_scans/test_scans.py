import pytest
import torch

from mmdefmamba.ops import permute_tokens, restore_tokens
from mmdefmamba.scans import SCANS, ScanContext, StaticScan, build_scan
from mmdefmamba.scans import base as scans_base

SIZES = [(1, 1), (2, 3), (7, 5), (1, 9), (6, 1), (56, 56)]
CONTEXT = ScanContext(embed_dims=4)


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('name', sorted(SCANS.module_dict))
def test_restore_inverts_every_scan(name, size):
    torch.manual_seed(0)
    scan = build_scan(name, CONTEXT)
    x = torch.randn(2, 4, *size)
    read, order = scan(x)
    assert read.shape == x.shape
    tokens = read.flatten(2).transpose(1, 2)
    sequence = permute_tokens(tokens, order)
    assert torch.equal(restore_tokens(sequence, order), tokens)
    places = visited(order, 2, size[0] * size[1])
    for b in range(2):
        assert torch.equal(sequence[b], tokens[b][places[b]])
        assert places[b].sort().values.tolist() == list(range(size[0] * size[1]))


def visited(order, batch, length):
    """The places that a scan visits, (batch, length)."""
    return (torch.arange(length) if order is None else order.order).expand(batch, -1)


def test_raster_orders():
    x = torch.zeros(1, 1, 2, 3)
    assert build_scan('raster', CONTEXT)(x) == (x, None)
    read, order = build_scan('raster_reverse', CONTEXT)(x)
    assert read is x and order.order.tolist() == [5, 4, 3, 2, 1, 0] and order.backwards
    # a single token has one order only
    assert build_scan('raster_reverse', CONTEXT)(torch.zeros(1, 1, 1, 1))[1] is None


def test_a_user_defined_scan_can_be_registered():
    class Columns(StaticScan):
        def order(self, height, width):
            return torch.arange(height * width).view(height, width).t().flatten()

    SCANS.register_module(name='test_columns', module=Columns)
    try:
        _, order = build_scan({'type': 'test_columns'}, CONTEXT)(torch.zeros(1, 1, 2, 3))
    finally:
        del SCANS.module_dict['test_columns']
    assert order.order.tolist() == [0, 3, 1, 4, 2, 5] and not order.backwards


def test_an_order_that_is_not_a_permutation_is_refused():
    class Twice(StaticScan):
        def order(self, height, width):
            return torch.zeros(height * width, dtype=torch.long)

    with pytest.raises(ValueError, match=r'Twice.order\(2, 3\) is not a permutation of 0..5'):
        Twice()(torch.zeros(1, 1, 2, 3))


def test_cached_orders_are_bounded(monkeypatch):
    monkeypatch.setattr(scans_base, 'MAX_CACHED_ORDERS', 3)
    scan = build_scan('raster_reverse', CONTEXT)
    for width in range(1, 8):
        scan(torch.zeros(1, 1, 2, width))
    assert [key[:2] for key in scan._cached_orders] == [(2, 5), (2, 6), (2, 7)]
    first = scan.token_order(2, 7, torch.device('cpu'))
    assert scan.token_order(2, 7, torch.device('cpu')) is first


@pytest.mark.parametrize('mode', [torch.inference_mode, torch.no_grad], ids=lambda mode: mode.__name__)
@pytest.mark.parametrize('name', sorted(SCANS.module_dict))
def test_a_scan_first_used_in_evaluation_can_be_trained_later(name, mode):
    """As PyTorch Lightning does, whose ``validate()`` runs in inference mode: cached orders must be usual tensors."""
    scan = build_scan(name, CONTEXT)
    x = torch.randn(2, 4, 8, 9)
    with mode():
        scan(x)
    x.requires_grad_()
    read, order = scan(x)
    tokens = read.flatten(2).transpose(1, 2)
    restore_tokens(permute_tokens(tokens, order).square(), order).sum().backward()
    assert x.grad.any()
    # the same gradient as of a scan that was never evaluated
    if isinstance(scan, StaticScan):
        torch.testing.assert_close(x.grad, 2 * x.detach())


@pytest.mark.parametrize('mode', [torch.inference_mode, torch.no_grad], ids=lambda mode: mode.__name__)
def test_a_scan_built_in_evaluation_caches_usual_tensors(mode):
    class Kept(StaticScan):
        """A scan that makes its order when it is built."""

        def __init__(self):
            super().__init__()
            self.places = torch.tensor([2, 0, 1])

        def order(self, height, width):
            return self.places

    with mode():
        scan = Kept()
        scan(torch.zeros(1, 1, 1, 3))
    x = torch.randn(1, 3, 1, requires_grad=True)
    permute_tokens(x, scan(torch.zeros(1, 1, 1, 3))[1]).sum().backward()
    assert x.grad.eq(1).all()


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        ('rastr', r"^unknown scan 'rastr', did you mean 'raster'\? Registered scans: atrous, column, "),
        ('xyz', r"^unknown scan 'xyz'\. Registered scans: atrous, column, "),
        ({'points': False}, r'^unknown scan None\. Registered scans: '),
        ({'type': 'deformable', 'points': False}, 'offset_bias=True needs points=True'),
        (
            {'type': 'deformable', 'points': False, 'order': False, 'offset_bias': False},
            'channel_attention=True needs points=True or order=True',
        ),
        ({'type': 'deformable', 'order_gradient': 'soft'}, "order_gradient must be one of .* got 'soft'"),
        ({'type': 'deformable', 'kernel_size': 4}, 'kernel_size must be odd and positive, got 4'),
    ],
)
def test_wrong_scans_are_refused_with_their_value(cfg, message):
    with pytest.raises(ValueError, match=message):
        build_scan(cfg, CONTEXT)


def test_unknown_formulation_is_refused():
    with pytest.raises(ValueError, match="got 'printed'"):
        ScanContext(embed_dims=4, formulation='printed')
