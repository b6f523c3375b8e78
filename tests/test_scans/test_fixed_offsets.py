"""The deformable scan with fixed offsets: a control that has learned nothing about points and order."""

import pytest
import torch

from mmdefmamba.scans import ScanContext, build_scan

CONTEXT = ScanContext(6, 1, (8, 6), 'paper')


def test_zero_offsets_read_each_token_at_its_place_row_by_row():
    u = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    read, order = build_scan(dict(type='deformable_fixed', offsets='zero', offset_bias=False), CONTEXT).double()(u)
    torch.testing.assert_close(read, u, rtol=1e-12, atol=1e-12)
    assert order.order.tolist() == [list(range(20))] * 2


def test_random_offsets_are_the_same_for_all_images_and_calls_and_follow_the_seed():
    scan = build_scan(dict(type='deformable_fixed'), CONTEXT)
    points, index = scan.offsets(torch.randn(3, 6, 4, 5))
    again, index_again = scan.offsets(torch.zeros(2, 6, 4, 5))
    assert torch.equal(points[:1].expand(2, -1, -1, -1), again)
    assert torch.equal(index[:1].expand(2, -1), index_again)
    raw = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0)).tanh()
    assert torch.equal(index[0], raw[0, 2].flatten())
    assert torch.equal(points[0, ..., 0] * 4, raw[0, 0])
    other, _ = build_scan(dict(type='deformable_fixed', seed=1), CONTEXT).offsets(torch.zeros(1, 6, 4, 5))
    assert not torch.equal(other, again[:1])
    _, order = scan(torch.randn(1, 6, 4, 5))
    assert order.order[0].tolist() != list(range(20))
    assert sorted(order.order[0].tolist()) == list(range(20))


def test_only_the_offset_bias_is_learned():
    scan = build_scan(dict(type='deformable_fixed'), CONTEXT)
    assert [name for name, _ in scan.named_parameters()] == ['offset_bias.table']


def test_unknown_offsets_are_refused():
    with pytest.raises(ValueError, match=r"offsets must be one of .*'learned'"):
        build_scan(dict(type='deformable_fixed', offsets='learned'), CONTEXT)
