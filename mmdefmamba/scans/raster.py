"""Row by row, forwards and backwards: the forward and backward branches of DefMamba."""

import torch

from .base import SCANS, StaticScan


@SCANS.register_module(name='raster')
class RasterScan(StaticScan):
    """Row by row from the top left, as a map lies in memory."""

    row_major = 1

    def order(self, height, width):
        return torch.arange(height * width)


@SCANS.register_module(name='raster_reverse')
class RasterReverseScan(StaticScan):
    """Row by row from the bottom right: the raster scan backwards."""

    row_major = -1

    def order(self, height, width):
        return torch.arange(height * width - 1, -1, -1)
