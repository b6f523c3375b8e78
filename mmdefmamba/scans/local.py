"""The local scan: window by window, so that tokens that are close on the map stay close in the sequence."""

import torch

from ..ops.sequence_scan.exported import stable_argsort
from .base import SCANS, StaticScan


@SCANS.register_module(name='local')
class LocalScan(StaticScan):
    """Windows row by row, and tokens row by row inside each. Windows at the border may be smaller; nothing is padded.

    Args:
        context: the :class:`~mmdefmamba.scans.ScanContext` of its place in the network.
        window: size of a window, one integer or (height, width).
        reverse: as for any :class:`~mmdefmamba.scans.StaticScan`.

    Raises:
        ValueError: ``window`` is not one or two positive integers.

    Source: LocalMamba, with windows of size 2 and 7.
    """

    def __init__(self, context=None, window=7, reverse=False):
        super().__init__(context, reverse)
        self.window = (window, window) if isinstance(window, int) else tuple(window)
        if len(self.window) != 2 or min(self.window) < 1:
            raise ValueError(f'window must be one or two positive integers, got {window}')

    def order(self, height, width):
        rows = torch.arange(height).view(-1, 1) // self.window[0]
        columns = torch.arange(width) // self.window[1]
        # stable: inside a window the tokens stay row by row
        return stable_argsort((rows * width + columns).flatten())
