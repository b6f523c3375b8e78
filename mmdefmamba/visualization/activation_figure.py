"""Which tokens a token hears of (DefMamba, figure 4)."""

from matplotlib.colors import PowerNorm

from ..analysis.activation import activation_map, place_of_token
from .canvas import ACCENT, as_rgb, faded, image_panels, relative, show, token_centres

COLOURS = 'magma'


def draw_activation_map(image, trace, token, index=0):
    """Draw the activation map of a token, of all scans of a block together and of each alone.

    Args:
        image: what the network was given, (height, width) or (height, width, 3), uint8, RGB.
        trace: a :class:`~mmdefmamba.analysis.BlockTrace`, with state space, of a batch with that image.
        token: (row, column) on the block's map; negative ones count from the end.
        index: of the image in the batch.

    Returns:
        A matplotlib Figure. Every map is drawn relative to its own maximum, on a square root scale: what a token
        receives falls off steeply along a scan.

    Raises:
        ValueError: as :func:`~mmdefmamba.analysis.activation_map`.
    """
    image = as_rgb(image)
    maps = {'all scans': activation_map(trace, token, index)}
    if len(trace.scans) > 1:
        maps |= {trace.scans[k]: activation_map(trace, token, index, k) for k in range(len(trace.scans))}
    figure, axes = image_panels(image, 1, 1 + len(maps), bar=True)
    size = image.shape[:2]
    place = place_of_token(token, trace.map_size)
    row, column = divmod(place, trace.map_size[1])
    show(axes[0, 0], image, f'{trace.label}, token ({row}, {column})')
    for axis, (name, values) in zip(axes[0, 1:], maps.items(), strict=True):
        show(axis, faded(image), name)
        shown = show(axis, relative(values).numpy(), size=size, cmap=COLOURS, norm=PowerNorm(0.5, 0, 1), alpha=0.75)
    y, x = token_centres(trace.map_size, size)[place]
    for axis in axes[0]:
        axis.plot(x, y, 'o', color=ACCENT, markeredgecolor='white', markeredgewidth=1.2, markersize=7)
    bar = figure.colorbar(shown, ax=axes[0], shrink=0.8, pad=0.01, aspect=25)
    bar.set_ticks([0, 0.1, 0.5, 1], labels=['0', '10 %', '50 %', 'most'])
    return figure
