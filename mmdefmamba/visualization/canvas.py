"""What all figures share: panels without a graphical backend, colours, and where a token lies on an image."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

#: Of Okabe and Ito's palette, which the colour-blind tell apart: vermillion and blue, and a map of the same kind.
ACCENT, SECOND = '#D55E00', '#0072B2'
COLOURS = 'viridis'
DPI = 100
#: Side of a panel with an image, inches.
PANEL = 2.8
#: Side in pixels from which on an image is larger than its panel.
LARGE = 300


def panels(rows, columns, width=PANEL, height=PANEL, **options):
    """An empty figure of panels; not by pyplot, which would start a graphical backend and keep every figure.

    Args:
        rows, columns: number of panels.
        width, height: of each, inches.
        **options: for matplotlib's ``Figure.subplots``.

    Returns:
        The Figure and its axes, an array (rows, columns).
    """
    figure = Figure(figsize=(width * columns, height * rows), dpi=DPI, layout='constrained')
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def image_panels(image, rows, columns, size=PANEL, lines=1, bar=False):
    """:func:`panels` in the proportions of an image, without ticks.

    Args:
        image: whose proportions they have.
        rows, columns: number of panels.
        size: of a panel's longer side, inches.
        lines: of the titles above each.
        bar: whether to leave room for a colour bar on the right.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    # a strip of an image still needs room for a title above it, and for the layout to find
    width, height = max(scale * width, 0.6 * size), max(scale * height, 0.2 * size) + 0.13 + 0.16 * lines
    figure, axes = panels(rows, columns, width + (0.7 / columns if bar else 0), height)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return figure, axes


def figure_to_rgb(figure):
    """A matplotlib Figure as pixels: (height, width, 3), uint8, RGB."""
    canvas = figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def as_rgb(image):
    """An image as (height, width, 3), uint8.

    Args:
        image: (height, width) or (height, width, 1 or 3), uint8, RGB; an array or a tensor on the CPU.

    Raises:
        ValueError: another shape or type.
    """
    image = np.asarray(image)
    shape = image.shape if image.ndim == 3 else (*image.shape, 1)
    if image.dtype != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3) or 0 in shape:
        raise ValueError(
            f'an image must be uint8, (height, width) or (height, width, 1 or 3), got {image.dtype} {image.shape}'
        )
    return image.reshape(shape).repeat(3 // shape[2], axis=2)


def faded(image):
    """An image, (height, width, 3), uint8, grey and half-way to white: a ground on which colours can be told apart."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return (127.5 + grey / 2).astype(np.uint8)[..., None].repeat(3, axis=2)


def show(axis, image, title=None, **options):
    """Show an image, or a map of tokens, in the coordinates of the image's pixels.

    ``options`` are for ``Axes.imshow``; ``size``, the (height, width) of the image, stretches a map over it.
    """
    height, width = options.pop('size', image.shape[:2])
    # tokens and the pixels of a small image have edges; of a large one there are several for each of the figure
    options['interpolation'] = 'nearest' if max(image.shape[:2]) <= LARGE else 'antialiased'
    shown = axis.imshow(image, extent=(-0.5, width - 0.5, height - 0.5, -0.5), **options)
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    if title:
        axis.set_title(title, fontsize=9)
    return shown


def relative(values):
    """A map, not negative, as shares of its own maximum; zeros stay zeros."""
    return values / values.max().clamp(min=values.new_tensor(1e-30))


def map_to_image(points, map_size, image_size):
    """Where on an image points of a block's map lie.

    A map is laid over the image as a grid of cells, each token in the middle of its own.

    Args:
        points: (..., 2), (y, x) in normalised coordinates: -1 and 1 are the centres of the first and last token.
        map_size: (H, W) of the map.
        image_size: (height, width) of the image that the network was given.

    Returns:
        (..., 2), (y, x) in pixels, float64: (0, 0) is the centre of the first pixel. Along an axis of one token, where
        every coordinate reads that token, its centre.
    """
    map_size, image_size = np.asarray(map_size, float), np.asarray(image_size, float)
    token = (np.asarray(points, float) + 1) / 2 * (map_size - 1)
    return (token + 0.5) * image_size / map_size - 0.5


def token_centres(map_size, image_size):
    """Where on an image the tokens of a map lie, row by row: (L, 2), (y, x) in pixels; see :func:`map_to_image`."""
    rows, columns = np.indices(map_size).reshape(2, -1)
    tokens = np.stack([rows, columns], axis=-1) + 0.5
    return tokens * np.asarray(image_size) / np.asarray(map_size) - 0.5


def token_at(pixel, map_size, image_size):
    """The (row, column) of the token in whose cell a pixel (y, x) of an image lies.

    Raises:
        ValueError: the pixel is outside of the image.
    """
    if any(not -0.5 <= p <= size - 0.5 for p, size in zip(pixel, image_size, strict=True)):
        raise ValueError(f'pixel must be (y, x) on an image of {image_size[0]} x {image_size[1]}, got {tuple(pixel)}')
    cells = ((p + 0.5) * tokens // size for p, tokens, size in zip(pixel, map_size, image_size, strict=True))
    return tuple(min(int(cell), tokens - 1) for cell, tokens in zip(cells, map_size, strict=True))


def draw_path(axis, order, map_size, image_size, colours=COLOURS, width=None):
    """Draw the way of a scan over an image: dark where it begins, a ring at its start and a square at its end.

    Args:
        axis: of matplotlib.
        order: (L,), the place visited at each step.
        map_size, image_size: as for :func:`map_to_image`.
        colours: name of a colour map, from the first step to the last.
        width: of the line, points; by default as the map has room for.
    """
    yx = token_centres(map_size, image_size)[np.asarray(order)]
    xy = yx[:, ::-1]
    # a line for every token must still leave gaps between lines
    width = float(np.clip(24 / max(map_size), 0.5, 2.2)) if width is None else width
    # a dark rim: yellow lines would be lost on a light ground
    axis.plot(*xy.T, color='#404040', linewidth=1.6 * width, solid_capstyle='round', solid_joinstyle='round')
    steps = LineCollection(np.stack([xy[:-1], xy[1:]], axis=1), cmap=colours, linewidths=width, capstyle='round')
    steps.set_array(np.arange(len(xy) - 1))
    steps.set_clim(0, max(len(xy) - 1, 1))
    axis.add_collection(steps)
    ends = dict(markeredgecolor='black', markeredgewidth=0.8, markersize=float(np.clip(50 / max(map_size), 3, 6)))
    axis.plot(*xy[0], 'o', color='white', **ends)
    axis.plot(*xy[-1], 's', color='white', **ends)
