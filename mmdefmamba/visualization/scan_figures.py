"""The figures of one block on one image file."""

import tempfile
from pathlib import Path

import mmcv
import torch

from ..analysis.trace import find_backbone, trace_blocks
from ..files import existing_file
from .activation_figure import draw_activation_map
from .inputs import load_images, network_inputs
from .limitations import draw_limitation_cases, limitation_cases
from .orders import draw_scan_order
from .points import draw_points


def scan_figures(model, path, stage=1, block=-1, token=None, scan=None, zoom=None):
    """Draw points, scan order and activation map of a block, for an image file read as the model's test reads it.

    Args:
        model: from :func:`mmdefmamba.get_model`; its ``cfg`` says how images are read.
        path: of the image.
        stage, block: which block, see :func:`~mmdefmamba.analysis.trace_blocks`.
        token: (row, column) for the activation map, None for the middle of the map.
        scan: whose order is drawn, see :meth:`~mmdefmamba.analysis.BlockTrace.scan_index`.
        zoom: see :func:`~mmdefmamba.visualization.draw_points`.

    Yields:
        Pairs of a name and a matplotlib Figure: 'points' where the block learns them, 'scan_order', 'activation'.

    Raises:
        FileNotFoundError: no such image.
        ValueError: stage, block, token, scan or zoom that the model does not have.
    """
    inputs, (picture,) = network_inputs(model, load_images(model.cfg, [path]))
    _, (trace,) = trace_blocks(find_backbone(model), inputs, stages=stage, blocks=block)
    if trace.points is not None:
        yield 'points', draw_points(picture, trace, zoom=zoom)
    yield 'scan_order', draw_scan_order(picture, trace, scan=scan)
    token = [side // 2 for side in trace.map_size] if token is None else token
    yield 'activation', draw_activation_map(picture, trace, token)


def limitation_figure(model, path, stage=1, block=-1, tiles=3):
    """Draw what a block does with an image of an object, with a part of it, and with a regular pattern of it.

    Args:
        model: from :func:`mmdefmamba.get_model`; its ``cfg`` says how images are read.
        path: of the image.
        stage, block: which block, see :func:`~mmdefmamba.analysis.trace_blocks`.
        tiles: see :func:`~mmdefmamba.visualization.limitation_cases`.

    Returns:
        A matplotlib Figure, see :func:`~mmdefmamba.visualization.draw_limitation_cases`.

    Raises:
        FileNotFoundError: no such image.
        ValueError: a stage or block that the model does not have or that learns no points, or too few tiles.
    """
    image = mmcv.imread(str(existing_file(path, 'image')), channel_order='rgb')
    cases = limitation_cases(image, tiles=tiles)
    inputs, pictures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for i, (title, image) in enumerate(cases.items()):
            file = str(Path(folder) / f'{i}.png')
            mmcv.imwrite(image[..., ::-1], file)
            one, (pictures[title],) = network_inputs(model, load_images(model.cfg, [file]))
            inputs.append(one)
    backbone = find_backbone(model)
    _, (trace,) = trace_blocks(backbone, torch.cat(inputs), stages=stage, blocks=block, state_space=False)
    return draw_limitation_cases(pictures, trace, backbone.formulation)
