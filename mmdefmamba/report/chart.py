"""Line charts as numbers that an SVG element draws, so that they take the colours of the page."""

import math
from typing import NamedTuple

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 36


class Chart(NamedTuple):
    """What the page's template draws; coordinates in units of an SVG of ``WIDTH`` x ``HEIGHT``.

    Args:
        title, x_label: texts.
        lines: (name, SVG path, points) of each series; points [(x, y)] where there are few enough to mark.
        x_ticks, y_ticks: [(coordinate, text)].
        note: of values that cannot be drawn, or ''.
    """

    title: str
    x_label: str
    lines: list
    x_ticks: list
    y_ticks: list
    note: str


def line_chart(title, x_label, series):
    """A chart of several series.

    Args:
        title, x_label: texts.
        series: {name: [(x, y), ...]}, x ascending. What is not finite interrupts a line and is told in ``note``.

    Returns:
        :class:`Chart`; None where there is no finite value.
    """
    finite = [(x, y) for points in series.values() for x, y in points if math.isfinite(y)]
    if not finite:
        return None
    xs, ys = zip(*finite, strict=True)
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    low, high = min(*ys, y_ticks[0]), max(*ys, y_ticks[-1])

    def place(x, y):
        across = (x - min(xs)) / (max(xs) - min(xs) or 1)
        up = (y - low) / (high - low or 1)
        right = LEFT + across * (WIDTH - LEFT - RIGHT)
        return round(right, 1), round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1)

    lines, notes = [], []
    for name, points in series.items():
        path, pen_down = [], False
        for x, y in points:
            if math.isfinite(y):
                path.append('{}{} {}'.format('L' if pen_down else 'M', *place(x, y)))
            pen_down = math.isfinite(y)
        lost = [x for x, y in points if not math.isfinite(y)]
        if lost:
            notes.append(f'{name} is not finite {len(lost)} times, first at {x_label} {lost[0]}')
        marks = [place(x, y) for x, y in points if math.isfinite(y)]
        lines.append((name, ''.join(path), marks if len(marks) <= 40 else []))
    return Chart(
        title,
        x_label,
        lines,
        [(place(tick, low)[0], f'{tick:g}') for tick in x_ticks if min(xs) <= tick <= max(xs)],
        [(place(min(xs), tick)[1], f'{tick:g}') for tick in y_ticks],
        '; '.join(notes),
    )


def ticks(low, high, count=5):
    """About ``count`` round numbers, from the last one at or below ``low`` to the first at or above ``high``."""
    span = high - low or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(span / count))
    step = next(size * factor for factor in (1, 2, 5, 10) if span / (size * factor) <= count)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]
