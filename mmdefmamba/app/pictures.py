"""Pictures of the page: a panel of the figures alone, to its very edge, so that it can be clicked on."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from ..analysis.activation import activation_map, place_of_token
from ..visualization.activation_figure import COLOURS
from ..visualization.canvas import ACCENT, DPI, faded, figure_to_rgb, relative, show, token_centres
from ..visualization.points import draw_arrows

SIDE = 480  # pixels of the longer side


def draw_point_arrows(image, trace):
    """From each token's reference point to where the deformable scan reads, over the image: uint8 RGB."""
    figure, axis = _panel(image)
    draw_arrows(axis, image, trace)
    return figure_to_rgb(figure)


def draw_activation(image, trace, token):
    """The activation map of a token, (row, column), over the image, and the grid of tokens: uint8 RGB."""
    figure, axis = _panel(image)
    shares = relative(activation_map(trace, token)).numpy()
    size = image.shape[:2]
    width = 0.6 if max(trace.map_size) < 24 else 0.2
    show(axis, faded(image))
    # square root: what a token receives falls off steeply along a scan; the image shows where little arrives
    show(axis, shares, size=size, cmap=COLOURS, norm=PowerNorm(0.5, 0, 1), alpha=0.15 + 0.75 * shares**0.5)
    for axis_lines, tokens, pixels in (
        (axis.axhline, trace.map_size[0], size[0]),
        (axis.axvline, trace.map_size[1], size[1]),
    ):
        for edge in range(1, tokens):
            axis_lines(edge * pixels / tokens - 0.5, color='white', linewidth=width, alpha=0.5)
    y, x = token_centres(trace.map_size, size)[place_of_token(token, trace.map_size)]
    cell = min(SIDE / max(size) * pixels / tokens for pixels, tokens in zip(size, trace.map_size, strict=True))
    dot = float(np.clip(cell / 5, 4, 12))
    axis.plot(x, y, 'o', color=ACCENT, markeredgecolor='white', markeredgewidth=dot / 5, markersize=dot)
    return figure_to_rgb(figure)


def _panel(image):
    """A figure that one axis fills wholly, in the proportions of an image."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width) / DPI
    figure = Figure(figsize=(max(scale * width, 1 / DPI), max(scale * height, 1 / DPI)), dpi=DPI)
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    return figure, axis
