"""The order of each static scan against its definition, written a second time here."""

from itertools import pairwise

import pytest
import torch

from mmdefmamba.scans import SCANS, StaticScan, build_scan

SIZES = [(1, 1), (1, 6), (5, 1), (2, 3), (4, 4), (7, 5), (8, 14)]
STATIC = sorted(name for name, scan in SCANS.module_dict.items() if issubclass(scan, StaticScan))


def visited(cfg, height, width):
    """The places (row, column) that a scan visits, in order."""
    order = build_scan(cfg, None).token_order(height, width, torch.device('cpu'))
    indices = range(height * width) if order is None else order.order.tolist()
    return [divmod(index, width) for index in indices]


def steps(cfg, height, width):
    """(rows, columns) of each step, absolute."""
    places = visited(cfg, height, width)
    return [(abs(a - c), abs(b - d)) for (a, b), (c, d) in pairwise(places)]


def raster(height, width):
    return [(row, column) for row in range(height) for column in range(width)]


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('name', STATIC)
def test_reverse_walks_backwards(name, size):
    forwards = visited(name, *size)
    assert visited(dict(type=name, reverse=True), *size) == forwards[::-1]
    assert sorted(forwards) == raster(*size)
    if f'{name}_reverse' in STATIC:
        assert visited(f'{name}_reverse', *size) == forwards[::-1]


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_column_is_column_by_column(size):
    assert visited('column', *size) == sorted(raster(*size), key=lambda place: place[::-1])


@pytest.mark.parametrize('transposed', [False, True])
@pytest.mark.parametrize('corner', ['top_left', 'top_right', 'bottom_left', 'bottom_right'])
def test_continuous_starts_at_its_corner_and_never_jumps(corner, transposed):
    for height, width in SIZES:
        cfg = dict(type='continuous', corner=corner, transposed=transposed)
        places = visited(cfg, height, width)
        vertical, horizontal = corner.split('_')
        assert places[0] == (0 if vertical == 'top' else height - 1, 0 if horizontal == 'left' else width - 1)
        assert all(sum(step) == 1 for step in steps(cfg, height, width))
        # one line after another: its coordinate goes from one side to the other and never turns back
        line = [place[transposed] for place in places]
        assert line in (sorted(line), sorted(line, reverse=True))


def test_continuous_by_hand():
    assert visited('continuous', 2, 3) == [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0)]
    cfg = dict(type='continuous', corner='bottom_right', transposed=True)
    assert visited(cfg, 2, 3) == [(1, 2), (0, 2), (0, 1), (1, 1), (1, 0), (0, 0)]


@pytest.mark.parametrize('window', [1, 2, 3, (2, 5), 7, 20], ids=str)
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_local_walks_window_by_window(window, size):
    tall, wide = (window, window) if isinstance(window, int) else window
    expected = []
    for top in range(0, size[0], tall):
        for left in range(0, size[1], wide):
            rows, columns = range(top, min(top + tall, size[0])), range(left, min(left + wide, size[1]))
            expected += [(row, column) for row in rows for column in columns]
    assert visited(dict(type='local', window=window), *size) == expected


@pytest.mark.parametrize(('stride', 'start'), [(1, 0), (2, 0), (2, 3), (3, 4)])
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_atrous_walks_subset_by_subset(stride, start, size):
    subsets = [(row, column) for row in range(stride) for column in range(stride)]
    expected = []
    for row, column in subsets[start:] + subsets[:start]:
        expected += [place for place in raster(*size) if (place[0] % stride, place[1] % stride) == (row, column)]
    assert visited(dict(type='atrous', stride=stride, start=start), *size) == expected


def test_zigzag_matches_the_jpeg_standard():
    # ITU-T T.81, figure A.6: the index of each coefficient in the sequence, for rows 0, 1 and 7 of a block
    sequence = {place: i for i, place in enumerate(visited('zigzag', 8, 8))}
    assert [sequence[0, column] for column in range(8)] == [0, 1, 5, 6, 14, 15, 27, 28]
    assert [sequence[1, column] for column in range(8)] == [2, 4, 7, 13, 16, 26, 29, 42]
    assert [sequence[7, column] for column in range(8)] == [35, 36, 48, 49, 57, 58, 62, 63]


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_zigzag_walks_the_diagonals_without_a_jump(size):
    diagonals = [sum(place) for place in visited('zigzag', *size)]
    assert diagonals == sorted(diagonals)
    if min(size) > 1:
        assert all(max(step) == 1 for step in steps('zigzag', *size))


def test_hilbert_steps_to_a_neighbour_where_possible():
    for height in range(1, 21):
        for width in range(1, 21):
            longer, shorter = max(height, width), min(height, width)
            diagonal = longer % 2 == 1 and shorter % 2 == 0 and shorter > 2
            jumps = [step for step in steps('hilbert', height, width) if sum(step) != 1]
            assert jumps == [(1, 1)] * diagonal, (height, width)
            places = visited('hilbert', height, width)
            end = longer - 1 - (shorter == 2 and longer % 2 == 1)
            assert (places[0], places[-1]) == ((0, 0), (0, end) if width >= height else (end, 0))


def test_hilbert_is_the_classic_curve_on_powers_of_two():
    def place(index, side):
        """The curve by its definition: each quadrant holds the curve of half the side, turned."""
        if side == 1:
            return 0, 0
        half = side // 2
        quadrant, rest = divmod(index, half * half)
        row, column = place(rest, half)
        if quadrant == 0:
            return column, row
        if quadrant == 1:
            return row + half, column
        if quadrant == 2:
            return row + half, column + half
        return half - 1 - column, side - 1 - row

    for side in (2, 4, 8, 16):
        assert visited('hilbert', side, side) == [place(i, side) for i in range(side * side)]


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='continuous', corner='middle'), "corner must be one of .* got 'middle'"),
        (dict(type='local', window=0), 'window must be one or two positive integers, got 0'),
        (dict(type='local', window=(2, 3, 4)), r'got \(2, 3, 4\)'),
        (dict(type='atrous', stride=0), 'stride must be positive, got 0'),
        (dict(type='atrous', start=4), 'start must be from 0 to 3, got 4'),
        (dict(type='quadtree', levels=0), 'levels must be positive, got 0'),
    ],
)
def test_wrong_arguments_are_refused_with_their_value(cfg, message):
    with pytest.raises(ValueError, match=message):
        build_scan(cfg, None)
