"""The limitation of the deformable scan: images in which it finds little structure (DefMamba, section 5, figure 6)."""

import cv2

from ..analysis.offsets import BlockOffsets
from .canvas import COLOURS, PANEL, as_rgb, draw_path, faded, image_panels, show, styled
from .points import draw_arrows

MIN_SIDE = 96


def limitation_cases(image, part=0.5, tiles=3):
    """Make the two cases of the paper's limitation from an image of one object.

    Args:
        image: (height, width) or (height, width, channels): a whole object.
        part: side of the part that is cut out of the lower right corner, relative to the side of the image.
        tiles: number of copies of the object along each side of the regular pattern.

    Returns:
        dict of title to image: the whole object, a part of it, a regular pattern. All have one size; a small image is
        enlarged.

    Raises:
        ValueError: ``part`` is not in (0, 1), or ``tiles`` is less than 2.
    """
    if not 0 < part < 1:
        raise ValueError(f'part must be between 0 and 1, got {part}')
    if tiles < 2:
        raise ValueError(f'tiles must be at least 2, got {tiles}')
    # a small image is enlarged first, otherwise each of its copies would have a few pixels only
    factor = max(1, -(-MIN_SIDE // min(image.shape[:2])))
    height, width = (side * factor for side in image.shape[:2])
    size = (width, height)
    image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    cut = image[int(height * (1 - part)) :, int(width * (1 - part)) :]
    # whole tiles, resized to the image: tiles that are cut at the border would break the regular pattern
    small = cv2.resize(image, (max(width // tiles, 1), max(height // tiles, 1)), interpolation=cv2.INTER_AREA)
    pattern = cv2.vconcat([cv2.hconcat([small] * tiles)] * tiles)
    return {
        'the whole object': image,
        'a part of it': cv2.resize(cut, size, interpolation=cv2.INTER_CUBIC),
        'a regular pattern of it': cv2.resize(pattern, size, interpolation=cv2.INTER_LINEAR),
    }


@styled
def draw_limitation_cases(images, trace, formulation='paper'):
    """Draw one row per case: the image, its points and its order, and how far both have moved.

    Args:
        images: dict of title to the image that the network was given, uint8, RGB.
        trace: a :class:`~mmdefmamba.analysis.BlockTrace` of the batch of these images, in this order.
        formulation: formulation of the network.

    Returns:
        A matplotlib Figure.

    Raises:
        ValueError: the block does not learn points, or the trace has another number of images.
    """
    if trace.point_offset is None or len(trace.point_offset) != len(images):
        raise ValueError(f'{trace.label} must have learned points for {len(images)} images')
    grounds = {name: as_rgb(image) for name, image in images.items()}
    figure, axes = image_panels(next(iter(grounds.values())), len(grounds), 4, size=0.9 * PANEL, lines=2)
    for i, (row, (name, image)) in enumerate(zip(axes, grounds.items(), strict=True)):
        measured = BlockOffsets(trace, formulation)
        measured.add(trace.select(slice(i, i + 1)))
        show(row[0], image, name)
        draw_arrows(row[1], image, trace, i)
        title = f'moved by {measured.offset_length:.2f} tokens,\nvaries by {measured.offset_variation:.2f}'
        row[1].set_title(title)
        show(row[2], faded(image), f'{trace.label}: path')
        k = trace.scan_index()
        draw_path(row[2], trace.orders[k][i].numpy(), trace.map_size, image.shape[:2])
        ranks = trace.ranks(i).numpy()
        show(row[3], ranks, f'rank shifted by {measured.shift:.1%}', size=image.shape[:2], cmap=COLOURS)
    return figure
