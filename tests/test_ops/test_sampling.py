import pytest
import torch

from mmdefmamba.ops import sample_points


def bilinear_by_hand(x, y_norm, x_norm):
    """One channel map (H, W) at one point, zeros outside."""
    height, width = x.shape
    row, col = (y_norm + 1) / 2 * (height - 1), (x_norm + 1) / 2 * (width - 1)
    top, left = int(row // 1), int(col // 1)
    total = 0.0
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < height and 0 <= j < width:
                total += float(x[i, j]) * (1 - abs(row - i)) * (1 - abs(col - j))
    return total


def test_reads_bilinearly_with_zeros_outside():
    x = torch.randn(1, 1, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.3, -0.7], [1.2, 0.1], [-1.4, -1.4], [5.0, 0.0]]).double()
    read = sample_points(x, points.view(1, 1, -1, 2)).flatten()
    expected = [bilinear_by_hand(x[0, 0], *point.tolist()) for point in points]
    torch.testing.assert_close(read, torch.tensor(expected, dtype=torch.float64))
    assert read[0] == x[0, 0, 0, 0] and read[1] == x[0, 0, -1, -1] and read[-1] == 0


def test_gradients_reach_map_and_points():
    x = torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    points = (torch.rand(2, 2, 5, 2, dtype=torch.float64) * 1.8 - 0.9).requires_grad_()
    assert torch.autograd.gradcheck(sample_points, (x, points))


def test_half_precision_maps_keep_the_precision_of_the_points():
    # at 0.3 between an odd and an even pixel, where neighbouring bfloat16 positions are half a pixel apart
    x = (torch.arange(257) % 2).view(1, 1, 1, -1).bfloat16()
    points = torch.tensor([0.0, 201.3 / 128 - 1]).view(1, 1, 1, 2)
    read = sample_points(x, points)
    assert read.dtype == torch.bfloat16
    assert read.item() == pytest.approx(0.7, abs=0.003)


@pytest.mark.parametrize(
    ('x_shape', 'points_shape', 'message'),
    [
        ((3, 4, 4), (1, 4, 4, 2), r'got \(3, 4, 4\)'),
        ((1, 3, 4, 4), (1, 4, 4, 3), r'and \(1, 4, 4, 3\)'),
        ((2, 3, 4, 4), (1, 4, 4, 2), 'x has a batch of 2, points have 1'),
    ],
)
def test_wrong_shapes_are_refused_with_their_sizes(x_shape, points_shape, message):
    with pytest.raises(ValueError, match=message):
        sample_points(torch.zeros(x_shape), torch.zeros(points_shape))


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize('size', [(1, 1), (1, 6), (5, 4)], ids=str)
def test_deterministic_reads_are_the_same(size, monkeypatch):
    """grid_sampler has no deterministic gradient on CUDA, so it must not be called in this mode, on no device."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    points = torch.rand(2, 7, 2, 2, dtype=torch.float64) * 3 - 1.5
    points[0, :3, 0] = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])  # on pixels, where the slope jumps
    points.requires_grad_()
    weight = torch.randn(2, 3, 7, 2, dtype=torch.float64)
    results = []
    for enabled in (False, True):
        if enabled:
            monkeypatch.setattr('torch.grid_sampler_2d', None)
        torch.use_deterministic_algorithms(enabled)
        try:
            y = sample_points(x, points)
            results.append([y, *torch.autograd.grad(y, (x, points), weight)])
        finally:
            torch.use_deterministic_algorithms(False)
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_deterministic_reads_do_not_hide_nan(deterministic):
    x = torch.ones(1, 2, 3, 3)
    points = torch.zeros(1, 1, 3, 2)
    points[0, 0, 1, 0] = float('nan')
    points[0, 0, 2] = float('inf')
    read = sample_points(x, points)
    assert read[..., 0].eq(1).all() and read[..., 1].isnan().all() and not read[..., 2].eq(1).any()
    assert sample_points(x.half(), points[:, :, :1]).dtype == torch.float16


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_no_images_and_no_points_give_an_empty_result(dtype):
    table = torch.ones(2, 3, 3, dtype=dtype)
    for batch, height in ((0, 4), (1, 0)):
        points = torch.zeros(batch, height, 5, 2, dtype=dtype)
        out = sample_points(torch.ones(batch, 2, 3, 3, dtype=dtype), points, table, points)
        assert out.shape == (batch, 2, height, 5) and out.dtype == dtype


def test_what_does_not_fit_is_refused():
    x, points, table = torch.ones(1, 2, 3, 3), torch.zeros(1, 1, 1, 2), torch.ones(2, 4, 4)
    for change, message in (
        (dict(table=table), 'table and table_points belong together'),
        (dict(table_points=points), 'table and table_points belong together'),
        (dict(table=table[:1], table_points=points), r'table must be \(2, height, width\).*got \(1, 4, 4\)'),
        (dict(table=table[:, :0], table_points=points), r'got \(2, 0, 4\)'),
        (dict(x=x.long()), 'x must be a floating point tensor, got torch.int64'),
    ):
        with pytest.raises(ValueError, match=message):
            sample_points(**{'x': x, 'points': points, **change})
