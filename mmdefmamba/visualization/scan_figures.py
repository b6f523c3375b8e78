"""The figures of one block, or of one layer, for one image file."""

import torch

from ..analysis.layer_activation import activation_maps, layer_activation_maps, mixing_blocks
from ..analysis.trace import find_backbone, trace_blocks
from ..files import existing_file
from .activation_figure import draw_activation_map, draw_activation_maps
from .inputs import ImageReader, load_images, network_inputs
from .limitations import draw_limitation_cases, limitation_cases
from .orders import draw_scan_order
from .points import draw_points


def scan_figures(model, path, stage=1, block=-1, tokens=None, scan=None, zoom=None):
    """Draw the points, the scan order and an activation map of a block for an image file.

    The image is read as the model's test reads images.

    Args:
        model: from :func:`mmdefmamba.get_model`; its ``cfg`` says how images are read.
        path: path of the image.
        stage, block: index of the block, see :func:`~mmdefmamba.analysis.trace_blocks`.
        tokens: pairs (row, column) for the activation maps; None takes the middle of the map. One token is drawn for
            each scan, several tokens for all scans together, on one colour scale.
        scan: the scan whose order is drawn, see :meth:`~mmdefmamba.analysis.BlockTrace.scan_index`.
        zoom: see :func:`~mmdefmamba.visualization.draw_points`.

    Yields:
        Pairs of a name and a matplotlib Figure: 'points' if the block learns points, 'scan_order', 'activation'.

    Raises:
        FileNotFoundError: the image does not exist.
        ValueError: the model has no DefMamba, or does not have this stage, block, token, scan or window.
    """
    picture, trace = trace_image(model, path, stage, block)
    if trace.points is not None:
        yield 'points', draw_points(picture, trace, zoom=zoom)
    yield 'scan_order', draw_scan_order(picture, trace, scan=scan)
    activation = activation_maps(trace, tokens)
    if len(activation.tokens) == 1:
        yield 'activation', draw_activation_map(picture, trace, activation.tokens[0])
    else:
        yield 'activation', draw_activation_maps(picture, activation)


def layer_activation_figure(model, path, layer, tokens=None, layout=None, map_size=None):
    """Draw the activation maps of a layer of any network for an image file.

    Args:
        model: from :func:`mmdefmamba.get_model`; its ``cfg`` says how images are read.
        path: path of the image.
        layer, tokens, layout, map_size: see :func:`~mmdefmamba.analysis.layer_activation_maps`.

    Returns:
        A matplotlib Figure, see :func:`~mmdefmamba.visualization.draw_activation_maps`.

    Raises:
        FileNotFoundError: the image does not exist.
        ValueError: as :func:`~mmdefmamba.analysis.layer_activation_maps`.
    """
    inputs, (picture,) = network_inputs(model, load_images(model.cfg, [path]))
    return draw_activation_maps(picture, layer_activation_maps(model, inputs, layer, tokens, layout, map_size))


def trace_image(model, path, stage, block):
    """Trace a block of a model on an image file.

    Args:
        model, path, stage, block: as for :func:`scan_figures`.

    Returns:
        The image that the network was given, (height, width, 3), uint8, RGB, and the
        :class:`~mmdefmamba.analysis.BlockTrace`.
    """
    if find_backbone(model, required=False) is None:
        examples = mixing_blocks(model)
        raise ValueError(
            f'{type(model).__name__} has no DefMamba backbone, whose blocks these figures show. Activation maps of '
            f'another network need the name of a layer (--layer){", such as " if examples else ""}{", ".join(examples)}'
        )
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
