"""Activation maps: which tokens influence a token (DefMamba, figure 4)."""

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.patheffects import withStroke

from ..analysis.activation import activation_map, place_of_token
from .canvas import (
    ACCENT,
    EDGE_SIDE,
    PALETTE,
    PANEL,
    add_bar,
    as_rgb,
    cell_size,
    edge_panel,
    faded,
    image_panels,
    relative,
    show,
    styled,
    token_centres,
)

COLOURS = 'magma'
# Of the tokens of one figure; the first is that of a single token.
TOKEN_COLOURS = (ACCENT, *(PALETTE[i] for i in (3, 4, 2, 6, 5)))


@styled
def draw_activation_map(image, trace, token, index=0):
    """Draw the activation map of a token: of all scans of a block together, and of each scan alone.

    Args:
        image: what the network was given, (height, width) or (height, width, 3), uint8, RGB.
        trace: a :class:`~mmdefmamba.analysis.BlockTrace`, with state space, of a batch with that image.
        token: (row, column) on the block's map; negative numbers count from the end.
        index: index of the image in the batch.

    Returns:
        A matplotlib Figure. Every map is relative to its own maximum, on a square root scale, because the influence
        of a token decreases steeply along a scan.

    Raises:
        ValueError: as :func:`~mmdefmamba.analysis.activation_map`.
    """
    image = as_rgb(image)
    maps = {'all scans': activation_map(trace, token, index)}
    if len(trace.scans) > 1:
        maps |= {trace.scans[k]: activation_map(trace, token, index, k) for k in range(len(trace.scans))}
    figure, axes = image_panels(image, 1, 1 + len(maps), size=0.85 * PANEL, bar=True)
    row, column = divmod(place_of_token(token, trace.map_size), trace.map_size[1])
    show(axes[0, 0], image, f'{trace.label}, token ({row}, {column})')
    for axis, (name, values) in zip(axes[0, 1:], maps.items(), strict=True):
        shown = _show_map(axis, image, relative(values).numpy(), 0.75)
        axis.set_title(name)
    for axis in axes[0]:
        _mark_token(axis, trace.map_size, image.shape[:2], token, 7, 1.2)
    _add_bar(figure, axes[0], shown)
    return figure


@styled
def draw_activation_maps(image, activation, columns=4):
    """Draw the activation maps of several tokens on one colour scale, beside the image with these tokens.

    Args:
        image: what the network was given, (height, width) or (height, width, 3), uint8, RGB.
        activation: an :class:`~mmdefmamba.analysis.ActivationMaps`, from
            :func:`~mmdefmamba.analysis.activation_maps` or :func:`~mmdefmamba.analysis.layer_activation_maps`.
        columns: the largest number of panels in a row.

    Returns:
        A matplotlib Figure: the image with a numbered dot on each token, then a panel per token with a dot of the same
        colour. All maps are relative to the largest value of all of them, on a square root scale.
    """
    image = as_rgb(image)
    shares = relative(activation.maps.float()).numpy()
    count = 1 + len(shares)
    columns = min(columns, count)
    figure, axes = image_panels(image, -(-count // columns), columns, bar=True)
    first, *panels = axes.flat
    show(first, image, activation.label)
    centres = token_centres(activation.map_size, image.shape[:2])
    for i, (token, share) in enumerate(zip(activation.tokens, shares, strict=True)):
        colour = TOKEN_COLOURS[i % len(TOKEN_COLOURS)]
        shown = _show_map(panels[i], image, share, 0.75)
        panels[i].set_title(f'{i + 1}: token ({token[0]}, {token[1]})')
        y, x = centres[place_of_token(token, activation.map_size)]
        number = first.annotate(str(i + 1), (x, y), xytext=(4, 4), textcoords='offset points', color='white')
        number.set_path_effects([withStroke(linewidth=2, foreground='black')])  # readable on any image
        for axis in (first, panels[i]):
            _mark_token(axis, activation.map_size, image.shape[:2], token, 7, 1.2, colour)
    for unused in panels[len(shares) :]:
        unused.set_axis_off()
    _add_bar(figure, axes, shown)
    return figure


@styled
def draw_activation_map_to_edge(image, trace, token, index=0):
    """Draw the activation map of a token, of all scans together, with the grid of tokens and without a frame.

    Args:
        image, trace, token, index: as for :func:`draw_activation_map`.

    Returns:
        A matplotlib Figure that the map fills to its edges, see :func:`~mmdefmamba.visualization.canvas.edge_panel`.

    Raises:
        ValueError: as :func:`~mmdefmamba.analysis.activation_map`.
    """
    image = as_rgb(image)
    figure, axis = edge_panel(image)
    shares = relative(activation_map(trace, token, index)).numpy()
    # the image shows through where the influence is small
    _show_map(axis, image, shares, 0.15 + 0.75 * shares**0.5)
    size = image.shape[:2]
    width = 0.6 if max(trace.map_size) < 24 else 0.2
    for draw_line, tokens, pixels in zip((axis.axhline, axis.axvline), trace.map_size, size, strict=True):
        for edge in range(1, tokens):
            draw_line(edge * pixels / tokens - 0.5, color='white', linewidth=width, alpha=0.5)
    dot = float(np.clip(EDGE_SIDE / max(size) * cell_size(trace.map_size, size) / 5, 4, 12))
    _mark_token(axis, trace.map_size, size, token, dot, dot / 5)
    return figure


def _show_map(axis, image, shares, opacity):
    """Show a map with values from 0 to 1 over the pale image, on a square root scale."""
    show(axis, faded(image))
    return show(axis, shares, size=image.shape[:2], cmap=COLOURS, norm=PowerNorm(0.5, 0, 1), alpha=opacity)


def _add_bar(figure, axes, shown):
    bar = add_bar(figure, shown, axes, shrink=0.8, pad=0.01, aspect=25)
    bar.set_ticks([0, 0.1, 0.5, 1], labels=['0', '10 %', '50 %', 'most'])


def _mark_token(axis, map_size, image_size, token, dot, rim, colour=ACCENT):
    """Draw a dot of ``dot`` points with a white rim of ``rim`` points on a token."""
    y, x = token_centres(map_size, image_size)[place_of_token(token, map_size)]
    axis.plot(x, y, 'o', color=colour, markeredgecolor='white', markeredgewidth=rim, markersize=dot)
