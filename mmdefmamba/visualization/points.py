"""The points at which the deformable scan reads the map (DefMamba, figure 5a)."""

import numpy as np
from matplotlib.patches import Rectangle

from .canvas import (
    ACCENT,
    PANEL,
    SECOND,
    as_rgb,
    cell_size,
    edge_panel,
    faded,
    image_panels,
    map_to_image,
    show,
    styled,
)

#: The largest number of arrows along a side of the map. More of them would be too small to see.
MOST_ARROWS = 16


@styled
def draw_points(image, trace, index=0, zoom=None, with_image=True):
    """Draw an arrow from the reference point of each token to the point where its features are read.

    On a map with more than ``MOST_ARROWS`` tokens along a side, the panel of the whole image has the arrows of every
    s-th token alone, s times as long, and its title says so.

    Args:
        image: what the network was given, (height, width) or (height, width, 3), uint8, RGB.
        trace: a :class:`~mmdefmamba.analysis.BlockTrace` of a batch with that image.
        index: index of the image in the batch.
        zoom: (row, column, rows, columns) of a window of tokens to enlarge in a panel of its own, or None.
        with_image: whether the first panel shows the image alone.

    Returns:
        A matplotlib Figure.

    Raises:
        ValueError: the block does not learn points, or ``zoom`` does not lie on its map.
    """
    check_points(trace)
    image = as_rgb(image)
    every = spacing(trace.map_size)
    count = 1 + with_image + (zoom is not None)
    figure, axes = image_panels(image, 1, count, size=1.35 * PANEL, lines=2 if every == 1 else 3)
    whole, arrows = axes[0, : 1 + with_image], axes[0, int(with_image)]
    if with_image:
        show(whole[0], image, 'image')
    length = token_offsets(trace, index)
    drawn = ': points' if every == 1 else f'\npoints of every {ordinal(every)} token, {every} times as far'
    title = f'{trace.label}{drawn}\nmoved by {length.mean():.2f} tokens (most: {length.max():.2f})'
    draw_arrows(arrows, image, trace, index, every=every)
    arrows.set_title(title)
    if zoom is not None:
        top, left, bottom, right = _window(zoom, trace.map_size, image.shape[:2])
        for axis in whole:
            axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=SECOND, lw=1.8))
        window = axes[0, -1]
        draw_arrows(window, image, trace, index, magnified=max(image.shape[:2]) / max(bottom - top, right - left))
        window.set(xlim=(left, right), ylim=(bottom, top))
        window.set_title('the window, larger')
        for spine in window.spines.values():
            spine.set(color=SECOND, linewidth=1.8)
    return figure


@styled
def draw_points_to_edge(image, trace, index=0):
    """Draw the arrows of :func:`draw_points` alone, without a frame.

    Args:
        image, trace, index: as for :func:`draw_points`.

    Returns:
        A matplotlib Figure that the image fills to its edges, see
        :func:`~mmdefmamba.visualization.canvas.edge_panel`.

    Raises:
        ValueError: the block does not learn points.
    """
    check_points(trace)
    image = as_rgb(image)
    figure, axis = edge_panel(image)
    draw_arrows(axis, image, trace, index, every=spacing(trace.map_size))
    return figure


def spacing(map_size):
    """Return s: on a map of this size, (H, W), the arrow of every s-th token along each side is drawn."""
    return -(-max(map_size) // MOST_ARROWS)


def ordinal(number):
    """Return '2nd', '3rd', '4th', ..., for numbers from 2 to 20."""
    return f'{number}{ {2: "nd", 3: "rd"}.get(number, "th") }'


def check_points(trace):
    """Check that a block learns points.

    Raises:
        ValueError: it does not.
    """
    if trace.point_offset is None:
        raise ValueError(f'{trace.label} learns no points: its scans are {", ".join(trace.scans)}')


def token_offsets(trace, index=0):
    """Return the distance of each point from its reference point, in tokens: (H, W), float64 array."""
    offset = trace.point_offset[index].double().numpy()
    return np.linalg.norm(offset * (np.asarray(trace.map_size) - 1) / 2, axis=-1)


def draw_arrows(axis, image, trace, index=0, magnified=1.0, every=1):
    """Draw a pale image with an arrow for each token, or for every ``every``-th one and as many times as long.

    Args:
        axis: a matplotlib axis.
        image: (height, width, 3), uint8, RGB.
        trace, index: as for :func:`draw_points`.
        magnified: how many times larger than in a panel of the whole image a token appears.
        every: distance of the drawn tokens along each side of the map, in tokens.
    """
    size = image.shape[:2]
    show(axis, faded(image))
    drawn = (slice(every // 2, None, every),) * 2  # the middle one of each group
    start, end = (
        map_to_image(points.numpy()[drawn], trace.map_size, size).reshape(-1, 2)
        for points in (trace.reference, trace.points[index])
    )
    cell = every * cell_size(trace.map_size, size)
    # the diameter of a dot is an eighth of the cell's side; matplotlib wants the area, in points squared
    panel = axis.get_position().width * axis.figure.get_figwidth() * 72
    dot = max((magnified * panel * cell / size[1] / 8) ** 2, 0.3)
    axis.scatter(*start[:, ::-1].T, s=dot, color=SECOND, linewidths=0, zorder=2)
    y, x = every * (end - start).T
    axis.quiver(
        *start[:, ::-1].T,
        x,
        y,
        angles='xy',
        scale_units='xy',
        scale=1,
        units='xy',
        width=0.07 * cell,
        headwidth=3.2,
        headlength=3.2,
        headaxislength=2.8,
        minlength=0,
        color=ACCENT,
        zorder=3,
    )


def _window(zoom, map_size, image_size):
    """Return (top, left, bottom, right) in pixels of a window of tokens."""
    row, column, rows, columns = zoom
    inside = row >= 0 and column >= 0 and row + rows <= map_size[0] and column + columns <= map_size[1]
    if min(rows, columns) < 1 or not inside:
        raise ValueError(
            f'zoom must be (row, column, rows, columns) on a map of {map_size[0]} x {map_size[1]} tokens, got {zoom}'
        )
    cell_y, cell_x = (pixels / tokens for pixels, tokens in zip(image_size, map_size, strict=True))
    return row * cell_y - 0.5, column * cell_x - 0.5, (row + rows) * cell_y - 0.5, (column + columns) * cell_x - 0.5
