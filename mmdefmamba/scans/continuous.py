"""The continuous scan: row by row, every second row backwards, so that there is no jump between rows."""

import torch

from .base import SCANS, StaticScan

#: corner to start from -> axes (0 rows, 1 columns) along which the map is flipped first
CORNERS = {'top_left': (), 'top_right': (1,), 'bottom_left': (0,), 'bottom_right': (0, 1)}


@SCANS.register_module(name='continuous')
class ContinuousScan(StaticScan):
    """Boustrophedon: consecutive tokens are always neighbours on the map.

    Args:
        context: the :class:`~mmdefmamba.scans.ScanContext` of its place in the network.
        corner: where the scan starts: 'top_left', 'top_right', 'bottom_left' or 'bottom_right'.
        transposed: walk along columns instead of rows.
        reverse: as for any :class:`~mmdefmamba.scans.StaticScan`.

    Raises:
        ValueError: ``corner`` is unknown.

    Source: PlainMamba, continuous 2D scanning.
    """

    def __init__(self, context=None, corner='top_left', transposed=False, reverse=False):
        super().__init__(context, reverse)
        if corner not in CORNERS:
            raise ValueError(f'corner must be one of {list(CORNERS)}, got {corner!r}')
        self.corner, self.transposed = corner, transposed

    def order(self, height, width):
        places = torch.arange(height * width).view(height, width).flip(CORNERS[self.corner])
        if self.transposed:
            places = places.t()
        odd = torch.arange(places.shape[0]).view(-1, 1) % 2 == 1
        return torch.where(odd, places.flip(1), places).flatten()
