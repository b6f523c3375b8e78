"""In which order scans visit the tokens (DefMamba, figures 1, 5b and 5c)."""

import cv2
import numpy as np
import torch

from ..scans import SCANS, ContentScan, ScanContext, StaticScan, build_scan
from .canvas import COLOURS, PANEL, as_rgb, draw_path, faded, image_panels, show

COLUMNS = 6


def draw_scan_order(image, trace, index=0, scan=None):
    """Draw the order in which a scan visits the tokens of an image, beside the raster scan's.

    Args:
        image: what the network was given, (height, width) or (height, width, 3), uint8, RGB.
        trace: a :class:`~mmdefmamba.analysis.BlockTrace` of a batch with that image.
        index: of the image in the batch.
        scan: a name or index of the trace's scans; None takes the deformable one, or the first.

    Returns:
        A matplotlib Figure of four panels: the image, the raster scan's path over it, the scan's path over it, and a
        heat map of the step at which each token is visited, whose array is :meth:`.BlockTrace.ranks`.

    Raises:
        ValueError: no such scan.
    """
    image = as_rgb(image)
    k = trace.scan_index(scan)
    order, ranks = trace.orders[k][index].numpy(), trace.ranks(index, k).numpy()
    figure, axes = image_panels(image, 1, 4, lines=2, bar=True)
    size, last = image.shape[:2], max(len(order) - 1, 1)
    show(axes[0, 0], image, 'image')
    for axis, path, title in ((axes[0, 1], np.arange(len(order)), 'raster'), (axes[0, 2], order, trace.scans[k])):
        show(axis, faded(image), title)
        draw_path(axis, path, trace.map_size, size)
    moved = np.abs(ranks.ravel() - np.arange(len(order))) / last
    title = f'{trace.label}: step of each token\nshifted by {moved.mean():.1%} of the way'
    shown = show(axes[0, 3], ranks, title, size=size, cmap=COLOURS, vmin=0, vmax=last)
    _first_to_last(figure, shown, axes[0], last)
    return figure


def static_scans():
    """The names of all registered scans whose order depends on the map's size alone, the raster scan first."""
    names = [name for name, cls in SCANS.module_dict.items() if issubclass(cls, StaticScan)]
    return sorted(names, key=lambda name: (not name.startswith('raster'), name))


def content_scans():
    """The names of all registered scans whose order follows from the features without learning."""
    return sorted(name for name, cls in SCANS.module_dict.items() if issubclass(cls, ContentScan))


def draw_static_scans(map_size=(8, 8), scans=None, image=None):
    """Draw the paths of scans that need no trained network, a panel each.

    Args:
        map_size: (H, W) of the map to scan.
        scans: registered names, or dicts with ``type`` and arguments; None takes every registered static scan and,
            where there is an image, every scan that follows the features.
        image: (height, width) or (height, width, 3), uint8, RGB, to draw over, or None. Scans that follow the features
            get it, resized to the map, as a map of three channels.

    Returns:
        A matplotlib Figure.

    Raises:
        ValueError: an unknown scan, or one that needs a trained network, or an image that is not there.
    """
    if scans is None:
        scans = static_scans() + (content_scans() if image is not None else [])
    orders = [_order(scan, map_size, image) for scan in scans]
    rows = -(-len(scans) // COLUMNS)
    ground = np.full((*map_size, 3), 255, np.uint8) if image is None else faded(as_rgb(image))
    figure, axes = image_panels(ground, rows, min(len(scans), COLUMNS), size=0.6 * PANEL, bar=True)
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
        raise ValueError(f'the order of {cfg!r} is learned: trace a network and draw_scan_order()')
    if image is None:
        raise ValueError(f'the order of {cfg!r} follows the features: give an image to take them from')
    small = cv2.resize(as_rgb(image), tuple(map_size)[::-1], interpolation=cv2.INTER_AREA)
    features_BCHW = torch.from_numpy(small).permute(2, 0, 1).unsqueeze(0).float()
    return scan.order(features_BCHW)[0].cpu()


def _described(cfg):
    """``dict(type='local', window=2)`` as 'local, window=2'."""
    return ', '.join([cfg['type'], *(f'{name}={value}' for name, value in cfg.items() if name != 'type')])


def _first_to_last(figure, shown, axes, last):
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.01, aspect=25)
    bar.set_ticks([0, last], labels=['first', 'last'])
