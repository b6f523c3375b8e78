from dataclasses import replace

import pytest
import torch

from mmdefmamba.analysis import offset_statistics, trace_blocks
from mmdefmamba.analysis.offsets import BlockOffsets, statistics_table
from mmdefmamba.models import DefMamba

ARCH = {'embed_dims': (8, 16), 'depths': (1, 2)}


@pytest.fixture
def trace():
    model = DefMamba({'embed_dims': (8,), 'depths': (1,)}, out_indices=0).eval()
    _, (trace,) = trace_blocks(model, torch.zeros(2, 3, 12, 20), state_space=False)
    assert trace.map_size == (3, 5)
    return trace


def known(trace, offset, order, formulation='paper'):
    """Return statistics of a trace with one point offset (2,) and one order (L,) per image."""
    point_offset = torch.tensor(offset).view(2, 1, 1, 2).expand(2, 3, 5, 2)
    orders = (*trace.orders[:2], torch.stack(order))
    statistics = BlockOffsets(trace, formulation)
    statistics.add(replace(trace, point_offset=point_offset, orders=orders))
    return statistics


def test_known_offsets_have_known_statistics(trace):
    raster = torch.arange(15)
    swapped = raster.clone()
    swapped[[0, 14]] = swapped[[14, 0]]
    # in tokens: y times (3 - 1) / 2, x times (5 - 1) / 2
    found = known(trace, [[0.0, 0.0], [0.32, -0.12]], [raster, swapped])
    assert (found.images, found.tokens) == (2, 30)
    assert found.offset_length == pytest.approx((0 + (0.32**2 + 0.24**2) ** 0.5) / 2)
    assert found.offset_variation == pytest.approx(0, abs=1e-7)
    assert found.offset_at_limit == 0.5  # 0.32 of at most 1 / 3
    # bins of 1 / 41 tokens, the middle one around 0
    assert found.offset_counts.nonzero().tolist() == [[20, 20], [33, 10]]
    assert found.offset_counts[20, 20] == found.offset_counts[33, 10] == 15
    assert found.moved == pytest.approx(2 / 30)
    assert found.shift == pytest.approx((1 + 1) / 30)
    assert found.shift_counts[[0, 40, 80]].tolist() == [1, 28, 1]
    assert found.shift_counts.sum() == 30


def test_visit_later_than_in_the_raster_scan_is_a_positive_shift(trace):
    first = torch.arange(15).roll(1)  # the last place is first, every other place is one step later
    found = known(trace, [[0.0, 0.0], [0.0, 0.0]], [first, first])
    assert found.shift_counts.nonzero().flatten().tolist() == [0, 43]
    assert found.shift_counts[43] == 28
    assert found.shift == pytest.approx((1 + 14 / 14) / 15)


def test_offset_limit_depends_on_the_formulation(trace):
    raster = torch.arange(15)
    # the limit along y is 1 / 3 in the paper and 1 / 2 in the released code
    offset = [[0.33, 0.0], [0.33, 0.0]]
    assert known(trace, offset, [raster, raster]).offset_at_limit == 1
    assert known(trace, offset, [raster, raster], 'released').offset_at_limit == 0


def test_variation_is_measured_within_each_image(trace):
    point_offset = torch.zeros(2, 3, 5, 2)
    point_offset[0, ..., 1] = torch.tensor([0.1, -0.1, 0.1, -0.1, 0.0])
    statistics = BlockOffsets(trace)
    statistics.add(replace(trace, point_offset=point_offset))
    # in image 0, 4 of 5 tokens lie 0.2 tokens from the mean; in image 1 all tokens are at the mean
    assert statistics.offset_variation == pytest.approx((0.5 * 0.8 * 0.2**2) ** 0.5)


@pytest.mark.parametrize('formulation', ['paper', 'released'])
def test_statistics_do_not_depend_on_batches(formulation):
    torch.manual_seed(0)
    model = DefMamba(ARCH, out_indices=-1, formulation=formulation).train()
    images = torch.randn(3, 3, 24, 16)
    whole = offset_statistics(model, images)
    parts = offset_statistics(model, iter(images.split(1)))
    assert model.training
    assert [block.label for block in whole] == ['stages.0.0', 'stages.1.0', 'stages.1.1']
    for a, b in zip(whole, parts, strict=True):
        assert (a.images, a.tokens) == (b.images, b.tokens)
        assert torch.equal(a.offset_counts, b.offset_counts)
        assert torch.equal(a.shift_counts, b.shift_counts)
        assert a.offset_counts.sum() == a.shift_counts.sum() == a.tokens
        for name in ('offset_length', 'offset_at_limit', 'offset_variation', 'shift', 'moved'):
            assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-6)
    assert [block.label for block in offset_statistics(model, images, stages=1)] == ['stages.1.0', 'stages.1.1']


def test_scans_without_points_have_no_point_statistics():
    model = DefMamba(ARCH, out_indices=-1, scans=('raster', 'raster_reverse'))
    found = offset_statistics(model, torch.zeros(2, 3, 12, 20), scan='raster_reverse')[0]
    assert found.offset_counts is found.offset_length is found.offset_at_limit is found.offset_variation is None
    # reversed, step 14 - i takes place i: shifts of 14, 12, ..., 14 of 14
    assert found.shift == pytest.approx(sum(abs(14 - 2 * i) for i in range(15)) / 15 / 14)
    assert found.moved == pytest.approx(14 / 15)
    assert statistics_table([found])[1] == ('stages.0.0', '-', '-', '-', '53.3%', '93.3%')


def test_no_images_are_refused():
    with pytest.raises(ValueError, match='there are no images'):
        offset_statistics(DefMamba(ARCH, out_indices=-1), [])
