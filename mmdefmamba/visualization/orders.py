"""The order in which scans visit the tokens (DefMamba, figures 1, 5b and 5c)."""

import cv2
import numpy as np
import torch

from ..scans import SCANS, ContentScan, ScanContext, StaticScan, build_scan
from .canvas import COLOURS, PANEL, add_bar, as_rgb, draw_path, faded, image_panels, show, styled

COLUMNS = 6


@styled
def draw_scan_order(image, trace, index=0, scan=None, columns=4):
    """Draw the order in which a scan visits the tokens of an image, next to the order of the raster scan.

    Args:
        image: what the network was given, (height, width) or (height, width, 3), uint8, RGB.
        trace: a :class:`~mmdefmamba.analysis.BlockTrace` of a batch with that image.
        index: index of the image in the batch.
        scan: name or index of one of the trace's scans; None takes the deformable scan, or else the first one.
        columns: 4, or 2 for two rows of panels, which stay readable on a narrow screen.

    Returns:
        A matplotlib Figure of four panels: the image, the path of the raster scan over it, the path of the scan over
        it, and a heat map of the step at which each token is visited, the array :meth:`.BlockTrace.ranks`.

    Raises:
        ValueError: the trace does not have this scan.
    """
    image = as_rgb(image)
    k = trace.scan_index(scan)
    order, ranks = trace.orders[k][index].numpy(), trace.ranks(index, k).numpy()
    figure, axes = image_panels(image, 4 // columns, columns, lines=2, bar=True)
    first, *paths, last_panel = axes.flat
    size, last = image.shape[:2], max(len(order) - 1, 1)
    show(first, image, 'image')
    for axis, path, title in zip(paths, (np.arange(len(order)), order), ('raster', trace.scans[k]), strict=True):
        show(axis, faded(image), title)
        draw_path(axis, path, trace.map_size, size)
    moved = np.abs(ranks.ravel() - np.arange(len(order))) / last
    title = f'{trace.label}: step of each token\nshifted by {moved.mean():.1%} of the way'
    shown = show(last_panel, ranks, title, size=size, cmap=COLOURS, vmin=0, vmax=last)
    _first_to_last(figure, shown, axes, last)
    return figure


def static_scans():
    """Return the names of all registered scans whose order depends on the size of the map only, raster scans first."""
    names = [name for name, cls in SCANS.module_dict.items() if issubclass(cls, StaticScan)]
    return sorted(names, key=lambda name: (not name.startswith('raster'), name))


def content_scans():
    """Return the names of all registered scans whose order follows from the features without learning."""
    return sorted(name for name, cls in SCANS.module_dict.items() if issubclass(cls, ContentScan))


@styled
def draw_static_scans(map_size=(8, 8), scans=None, image=None):
    """Draw the paths of scans that do not need a trained network, one panel per scan.

    Args:
        map_size: (H, W) of the map to scan.
        scans: registered names, or dicts with ``type`` and arguments. None takes every registered static scan and, with
            an image, every scan whose order follows from the features.
        image: the image to draw over, (height, width) or (height, width, 3), uint8, RGB, or None. Resized to the map,
            it is also the feature map of the scans whose order follows from the features.

    Returns:
        A matplotlib Figure.

    Raises:
        ValueError: a scan is unknown, needs a trained network, or needs an image and there is none.
    """
    if scans is None:
        scans = static_scans() + (content_scans() if image is not None else [])
    orders = [_order(scan, map_size, image) for scan in scans]
    rows = -(-len(scans) // COLUMNS)
    ground = np.full((*map_size, 3), 255, np.uint8) if image is None else faded(as_rgb(image))
    figure, axes = image_panels(ground, rows, min(len(scans), COLUMNS), size=0.62 * PANEL, bar=True)
    last = max(map_size[0] * map_size[1] - 1, 1)
    for axis, scan, order in zip(axes.flat, scans, orders, strict=False):
        show(axis, ground, scan if isinstance(scan, str) else _described(scan))
        draw_path(axis, order, map_size, ground.shape[:2])
    for axis in axes.flat[len(scans) :]:
        axis.set_axis_off()
    _first_to_last(figure, axes.flat[0].collections[0], axes, last)
    return figure


def _order(cfg, map_size, image):
    scan = build_scan(cfg, ScanContext(embed_dims=3, map_size=tuple(map_size)))
    if isinstance(scan, StaticScan):
        order = scan.token_order(*map_size, 'cpu')
        return torch.arange(map_size[0] * map_size[1]) if order is None else order.order
    if not isinstance(scan, ContentScan):
        raise ValueError(f'the order of {cfg!r} is learned: trace a network and call draw_scan_order()')
    if image is None:
        raise ValueError(f'the order of {cfg!r} follows the features: give an image to take the features from')
    small = cv2.resize(as_rgb(image), tuple(map_size)[::-1], interpolation=cv2.INTER_AREA)
    features_BCHW = torch.from_numpy(small).permute(2, 0, 1).unsqueeze(0).float()
    return scan.order(features_BCHW)[0].cpu()


def _described(cfg):
    """Describe a scan in a title: ``dict(type='local', window=2)`` is 'local, window=2'."""
    return ', '.join([cfg['type'], *(f'{name}={value}' for name, value in cfg.items() if name != 'type')])


def _first_to_last(figure, shown, axes, last):
    bar = add_bar(figure, shown, axes, shrink=0.8, pad=0.01, aspect=25)
    bar.set_ticks([0, last], labels=['first', 'last'])
