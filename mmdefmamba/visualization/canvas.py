"""The basis of all figures: their look, panels that need no graphical backend, and the place of a token on an image."""

import functools

import numpy as np
from matplotlib import cycler, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

#: Okabe and Ito's palette and a colour map, which colour-blind readers can distinguish, and two greys.
PALETTE = ('#0072B2', '#D55E00', '#009E73', '#E69F00', '#56B4E9', '#CC79A7', '#F0E442', '#000000', '#999999', '#666666')
SECOND, ACCENT = PALETTE[:2]
COLOURS = 'viridis'
#: Colours of lines and frames that carry no meaning, and of text that explains.
LINE, QUIET = '#808080', '#555555'
DPI = 100
#: Side of a panel with an image, in inches. Four of them side by side fill a page.
PANEL = 2.1
#: Sizes of text, in points: titles of parts of a figure; titles of panels and names of axes; numbers and legends.
HEADING, TEXT, SMALL = 11, 9, 8
#: The look of all figures, in matplotlib's settings; see :func:`styled`.
STYLE = {
    'font.family': 'DejaVu Sans',  # it comes with matplotlib
    'font.size': TEXT,
    'axes.titlesize': TEXT,
    'axes.labelsize': TEXT,
    'xtick.labelsize': SMALL,
    'ytick.labelsize': SMALL,
    'legend.fontsize': SMALL,
    'legend.title_fontsize': SMALL,
    'text.color': 'black',
    'axes.titlecolor': 'auto',
    'axes.labelcolor': 'black',
    'axes.edgecolor': LINE,
    'axes.linewidth': 0.8,
    'axes.prop_cycle': cycler(color=PALETTE),
    'xtick.color': LINE,
    'ytick.color': LINE,
    'xtick.labelcolor': 'black',
    'ytick.labelcolor': 'black',
    'grid.color': LINE,
    'grid.alpha': 0.3,
    'figure.facecolor': 'white',
    'axes.facecolor': 'white',
    'savefig.facecolor': 'auto',
    'savefig.dpi': 'figure',
}
#: Longer side of a figure from :func:`edge_panel`, in pixels.
EDGE_SIDE = 480
#: An image with a longer side than this, in pixels, has more pixels than its panel.
LARGE = 300


def styled(draw):
    """Give the figures of a drawing function the look of all figures, whatever the settings of matplotlib are."""

    @functools.wraps(draw)
    def drawn(*args, **options):
        with rc_context(STYLE):
            return draw(*args, **options)

    return drawn


def panels(rows, columns, width=PANEL, height=PANEL, **options):
    """Return an empty figure of panels.

    It is built without pyplot, which would start a graphical backend and keep a reference to every figure.

    Args:
        rows, columns: number of panels.
        width, height: size of each panel, in inches.
        **options: for matplotlib's ``Figure.subplots``.

    Returns:
        The Figure and its axes, an array (rows, columns).
    """
    figure = _figure(width * columns, height * rows, layout='constrained')
    # Matplotlib's own padding, 0.04 inches, cuts off the upper edge of titles with two lines.
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def image_panels(image, rows, columns, size=PANEL, lines=1, bar=False):
    """Return :func:`panels` without ticks, in the proportions of an image.

    Args:
        image: the image that gives the proportions.
        rows, columns: number of panels.
        size: longer side of each panel, in inches.
        lines: number of lines in the title above each panel.
        bar: whether to leave room for a colour bar on the right.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    # a very thin image still needs room for its title, and the layout needs a panel of some size
    least = 1.2 * size if width < height else size
    width, height = max(scale * width, least), max(scale * height, 0.56) + 0.17 + 0.17 * lines
    figure, axes = panels(rows, columns, width + (0.7 / columns if bar else 0), height)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return figure, axes


def add_bar(figure, shown, axes, **options):
    """Add a colour bar on the right of panels, which stay where they are.

    Args:
        figure: the Figure.
        shown: the matplotlib image or collection whose colours the bar explains.
        axes: the axes beside which it stands.
        **options: for ``Figure.colorbar``.
    """
    # matplotlib would move narrow panels to the right, and their titles out of the figure
    return figure.colorbar(shown, ax=axes, panchor=False, **options)


def edge_panel(image):
    """Return a figure that one axis fills to its edges, so that a place on the picture is a place on the image.

    Args:
        image: the image that gives the proportions.

    Returns:
        The Figure, with a longer side of ``EDGE_SIDE`` pixels, and its axis.
    """
    height, width = image.shape[:2]
    scale = EDGE_SIDE / max(height, width) / DPI
    figure = _figure(max(scale * width, 1 / DPI), max(scale * height, 1 / DPI))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    return figure, axis


def _figure(width, height, **options):
    figure = Figure(figsize=(width, height), dpi=DPI, **options)
    FigureCanvasAgg(figure)
    return figure


def figure_to_rgb(figure):
    """Return the pixels of a matplotlib Figure: (height, width, 3), uint8, RGB."""
    canvas = figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def as_rgb(image):
    """Return an image as (height, width, 3), uint8.

    Args:
        image: (height, width) or (height, width, 1 or 3), uint8, RGB; an array or a tensor on the CPU.

    Raises:
        ValueError: the image has another shape or dtype.
    """
    image = np.asarray(image)
    shape = image.shape if image.ndim == 3 else (*image.shape, 1)
    if image.dtype != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3) or 0 in shape:
        raise ValueError(
            f'an image must be uint8, (height, width) or (height, width, 1 or 3), got {image.dtype} {image.shape}'
        )
    return image.reshape(shape).repeat(3 // shape[2], axis=2)


def faded(image):
    """Return a pale grey version of an image, on which colours stand out.

    Args:
        image: (height, width, 3), uint8.

    Returns:
        The same shape and dtype: the grey values, half-way to white.
    """
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return (127.5 + grey / 2).astype(np.uint8)[..., None].repeat(3, axis=2)


def show(axis, image, title=None, **options):
    """Show an image, or a map of tokens, in the coordinates of the image's pixels.

    Args:
        axis: a matplotlib axis.
        image: the image or the map.
        title: text above it, or None.
        **options: for ``Axes.imshow``. In addition ``size``, the (height, width) of an image, stretches a map over
            that image.

    Returns:
        The matplotlib image.
    """
    height, width = options.pop('size', image.shape[:2])
    # tokens and the pixels of a small image keep sharp edges; a large image has several pixels per pixel of the figure
    options['interpolation'] = 'nearest' if max(image.shape[:2]) <= LARGE else 'antialiased'
    shown = axis.imshow(image, extent=(-0.5, width - 0.5, height - 0.5, -0.5), **options)
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    if title:
        axis.set_title(title)
    return shown


def relative(values):
    """Divide a non-negative map by its maximum; a map of zeros stays zero."""
    return values / values.max().clamp(min=values.new_tensor(1e-30))


def map_to_image(points, map_size, image_size):
    """Convert points of a block's map to pixels of an image.

    The map covers the image as a grid of cells. Each token lies in the middle of its cell.

    Args:
        points: (..., 2), (y, x) in normalised coordinates: -1 and 1 are the centres of the first and last token.
        map_size: (H, W) of the map.
        image_size: (height, width) of the image that the network was given.

    Returns:
        (..., 2), (y, x) in pixels, float64: (0, 0) is the centre of the first pixel. Along an axis with one token
        every point is at the centre of that token, because every coordinate reads it.
    """
    map_size, image_size = np.asarray(map_size, float), np.asarray(image_size, float)
    token = (np.asarray(points, float) + 1) / 2 * (map_size - 1)
    return (token + 0.5) * image_size / map_size - 0.5


def token_centres(map_size, image_size):
    """Return the centres of a map's tokens on an image, row by row: (L, 2), (y, x) in pixels.

    See :func:`map_to_image` for the coordinates.
    """
    rows, columns = np.indices(map_size).reshape(2, -1)
    tokens = np.stack([rows, columns], axis=-1) + 0.5
    return tokens * np.asarray(image_size) / np.asarray(map_size) - 0.5


def cell_size(map_size, image_size):
    """Return the shorter side of a token's cell on an image, in pixels."""
    return min(pixels / tokens for pixels, tokens in zip(image_size, map_size, strict=True))


def token_at(pixel, map_size, image_size):
    """Return the (row, column) of the token whose cell contains the pixel (y, x) of an image.

    Raises:
        ValueError: the pixel lies outside the image.
    """
    if any(not -0.5 <= p <= size - 0.5 for p, size in zip(pixel, image_size, strict=True)):
        raise ValueError(f'pixel must be (y, x) on an image of {image_size[0]} x {image_size[1]}, got {tuple(pixel)}')
    cells = ((p + 0.5) * tokens // size for p, tokens, size in zip(pixel, map_size, image_size, strict=True))
    return tuple(min(int(cell), tokens - 1) for cell, tokens in zip(cells, map_size, strict=True))


def draw_path(axis, order, map_size, image_size, colours=COLOURS, width=None):
    """Draw the path of a scan over an image: a ring at the first token, a square at the last one.

    Args:
        axis: a matplotlib axis.
        order: (L,), the place visited at each step.
        map_size, image_size: as for :func:`map_to_image`.
        colours: name of a colour map, from the first step to the last.
        width: width of the line, in points; by default as wide as the map has room for.
    """
    yx = token_centres(map_size, image_size)[np.asarray(order)]
    xy = yx[:, ::-1]
    # neighbouring lines must not touch
    width = float(np.clip(24 / max(map_size), 0.5, 2.2)) if width is None else width
    # a dark rim keeps yellow lines visible on light ground
    axis.plot(*xy.T, color='#404040', linewidth=1.6 * width, solid_capstyle='round', solid_joinstyle='round')
    steps = LineCollection(np.stack([xy[:-1], xy[1:]], axis=1), cmap=colours, linewidths=width, capstyle='round')
    steps.set_array(np.arange(len(xy) - 1))
    steps.set_clim(0, max(len(xy) - 1, 1))
    axis.add_collection(steps)
    ends = dict(markeredgecolor='black', markeredgewidth=0.8, markersize=float(np.clip(50 / max(map_size), 3, 6)))
    axis.plot(*xy[0], 'o', color='white', **ends)
    axis.plot(*xy[-1], 's', color='white', **ends)
