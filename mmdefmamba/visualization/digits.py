"""The quickstart's picture: digits, what they were taken for, and the order in which they were scanned."""

import numpy as np

RIGHT, WRONG = '#1a7f37', '#cf222e'


def draw_digits(path, images, labels, predictions, trace):
    """Draw a row of digits above a row of their learned scan orders.

    Args:
        path: where to write the picture (PNG).
        images: (n, height, width), uint8.
        labels, predictions: n integers each.
        trace: a :class:`~mmdefmamba.visualization.DeformableTrace` of these images.

    Raises:
        ValueError: the trace has no order.
    """
    # not pyplot: it would start a graphical backend
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if trace.order is None:
        raise ValueError(f'{trace.name} scans in raster order, there is no learned order to draw')
    height, width = trace.map_size
    figure = Figure(figsize=(1.5 * len(images), 3.4), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(images), squeeze=False)
    for i, (image, label, prediction) in enumerate(zip(images, labels, predictions, strict=True)):
        top, bottom = axes[:, i]
        right = label == prediction
        top.imshow(image, cmap='gray_r')
        top.set_title(f'{prediction}' if right else f'{prediction}, is {label}', color=RIGHT if right else WRONG)

        order = trace.order[i].numpy()
        rank = np.empty(len(order), dtype=int)
        rank[order] = np.arange(len(order))
        scanned = bottom.imshow(rank.reshape(height, width), cmap='viridis')
        y, x = np.divmod(order, width)
        bottom.plot(x, y, color='white', linewidth=0.6, alpha=0.7)
        bottom.plot(x[0], y[0], 'o', color='white', markersize=4)
        for axis in (top, bottom):
            axis.set_xticks([])
            axis.set_yticks([])
    axes[0, 0].set_ylabel('digit, prediction')
    axes[1, 0].set_ylabel('learned scan order')
    bar = figure.colorbar(scanned, ax=axes[1, :], shrink=0.9, pad=0.01)
    bar.set_ticks([0, len(order) - 1], labels=['first', 'last'])
    figure.savefig(path, dpi=110)
