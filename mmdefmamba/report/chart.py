"""Line charts as the coordinates of an SVG element, which takes its colours from the page."""

import math
from typing import NamedTuple

WIDTH, HEIGHT = 640, 268
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 44


class Chart(NamedTuple):
    """A chart for the template of the page; all coordinates are in units of an SVG of ``WIDTH`` x ``HEIGHT``.

    Attributes:
        title, x_label: texts.
        lines: (name, SVG path, marks) per series; marks [(x, y)] are the points, empty for more than 40 points.
        x_ticks, y_ticks: [(coordinate, text)].
        note: text about values that are not finite, or ''.
    """

    title: str
    x_label: str
    lines: list
    x_ticks: list
    y_ticks: list
    note: str


def line_chart(title, x_label, series):
    """Make a chart of several series.

    Args:
        title, x_label: texts.
        series: {name: [(x, y), ...]}, x ascending. A value that is not finite interrupts its line and is mentioned in
            ``note``.

    Returns:
        A :class:`Chart`, or None if no value is finite.
    """
    finite = [(x, y) for points in series.values() for x, y in points if math.isfinite(y)]
    if not finite:
        return None
    xs, ys = zip(*finite, strict=True)
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    low, high = min(*ys, y_ticks[0]), max(*ys, y_ticks[-1])

    def place(x, y):
        across = (x - min(xs)) / (max(xs) - min(xs)) if max(xs) > min(xs) else 0.5  # one step is in the middle
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
    """Return about ``count`` round numbers; the first is at or below ``low``, the last at or above ``high``."""
    span = high - low or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(span / count))
    step = next(size * factor for factor in (1, 2, 5, 10) if span / (size * factor) <= count)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]
