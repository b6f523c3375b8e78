"""The figures of one block for one image file."""

import torch

from ..analysis.trace import find_backbone, trace_blocks
from ..files import existing_file
from .activation_figure import draw_activation_map
from .inputs import ImageReader, load_images, network_inputs
from .limitations import draw_limitation_cases, limitation_cases
from .orders import draw_scan_order
from .points import draw_points


def scan_figures(model, path, stage=1, block=-1, token=None, scan=None, zoom=None):
    """Draw the points, the scan order and an activation map of a block for an image file.

    The image is read as the model's test reads images.

    Args:
        model: from :func:`mmdefmamba.get_model`; its ``cfg`` says how images are read.
        path: path of the image.
        stage, block: index of the block, see :func:`~mmdefmamba.analysis.trace_blocks`.
        token: (row, column) for the activation map; None takes the middle of the map.
        scan: the scan whose order is drawn, see :meth:`~mmdefmamba.analysis.BlockTrace.scan_index`.
        zoom: see :func:`~mmdefmamba.visualization.draw_points`.

    Yields:
        Pairs of a name and a matplotlib Figure: 'points' if the block learns points, 'scan_order', 'activation'.

    Raises:
        FileNotFoundError: the image does not exist.
        ValueError: the model does not have this stage, block, token, scan or window.
    """
    picture, trace = trace_image(model, path, stage, block)
    if trace.points is not None:
        yield 'points', draw_points(picture, trace, zoom=zoom)
    yield 'scan_order', draw_scan_order(picture, trace, scan=scan)
    yield 'activation', draw_activation_map(picture, trace, trace.centre if token is None else token)


def trace_image(model, path, stage, block):
    """Trace a block of a model on an image file.

    Args:
        model, path, stage, block: as for :func:`scan_figures`.

    Returns:
        The image that the network was given, (height, width, 3), uint8, RGB, and the
        :class:`~mmdefmamba.analysis.BlockTrace`.
    """
    inputs, (picture,) = network_inputs(model, load_images(model.cfg, [path]))
    _, (trace,) = trace_blocks(find_backbone(model), inputs, stages=stage, blocks=block)
    return picture, trace


def limitation_figure(model, path, stage=1, block=-1, tiles=3):
    """Draw what a block does with an image of an object, a part of that image, and a regular pattern of it.

    Args:
        model: from :func:`mmdefmamba.get_model`; its ``cfg`` says how images are read.
        path: path of the image.
        stage, block: index of the block, see :func:`~mmdefmamba.analysis.trace_blocks`.
        tiles: see :func:`~mmdefmamba.visualization.limitation_cases`.

    Returns:
        A matplotlib Figure, see :func:`~mmdefmamba.visualization.draw_limitation_cases`.

    Raises:
        FileNotFoundError: the image does not exist.
        ValueError: the model does not have this block, the block does not learn points, or ``tiles`` is too small.
    """
    cases = limitation_cases(ImageReader(model.cfg)(existing_file(path, 'image')), tiles=tiles)
    inputs, pictures = [], {}
    for title, image in cases.items():
        one, (pictures[title],) = network_inputs(model, load_images(model.cfg, [image]))
        inputs.append(one)
    backbone = find_backbone(model)
    _, (trace,) = trace_blocks(backbone, torch.cat(inputs), stages=stage, blocks=block, state_space=False)
    return draw_limitation_cases(pictures, trace, backbone.formulation)
