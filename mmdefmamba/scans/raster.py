"""Row by row from the top left, and the same backwards: DefMamba's forward and backward branches."""

import torch

from .base import SCANS, StaticScan


@SCANS.register_module(name='raster')
class RasterScan(StaticScan):
    """Row-major: the order in which a map lies in memory."""

    def order(self, height, width):
        return torch.arange(height * width)


@SCANS.register_module(name='raster_reverse')
class RasterReverseScan(StaticScan):
    """Row-major, backwards."""

    def order(self, height, width):
        return torch.arange(height * width - 1, -1, -1)
