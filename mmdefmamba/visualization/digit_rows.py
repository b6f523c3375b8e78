"""The picture of the quickstart: digits, their predictions and their learned scan orders."""

from .canvas import ACCENT, COLOURS, SECOND, add_bar, draw_path, panels, show, styled

RIGHT, WRONG = SECOND, ACCENT


@styled
def draw_digits(images, labels, predictions, trace):
    """Draw a row of digits, and below it a row of their learned scan orders.

    Args:
        images: (n, height, width), uint8.
        labels, predictions: n integers each.
        trace: a :class:`~mmdefmamba.analysis.BlockTrace` of these images, with a deformable scan.

    Returns:
        A matplotlib Figure.

    Raises:
        ValueError: the block does not have a deformable scan.
    """
    k = trace.scan_index('deformable')
    figure, axes = panels(2, len(images), 1.15, 1.35)
    for i, (image, label, prediction) in enumerate(zip(images, labels, predictions, strict=True)):
        top, bottom = axes[:, i]
        right = label == prediction
        top.imshow(image, cmap='gray_r')
        top.set_title(f'{prediction}' if right else f'{prediction}, is {label}', color=RIGHT if right else WRONG)

        order = trace.orders[k][i].numpy()
        scanned = show(bottom, trace.ranks(i, k).numpy(), cmap=COLOURS)
        draw_path(bottom, order, trace.map_size, trace.map_size, colours='Greys', width=0.8)
        for axis in (top, bottom):
            axis.set_xticks([])
            axis.set_yticks([])
    axes[0, 0].set_ylabel('digit, prediction')
    axes[1, 0].set_ylabel('learned scan order')
    bar = add_bar(figure, scanned, axes[1, :], shrink=0.9, pad=0.01)
    bar.set_ticks([0, len(order) - 1], labels=['first', 'last'])
    return figure
