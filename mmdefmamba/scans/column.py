"""Column by column, forwards and backwards. Together with the two raster scans this is the cross-scan of VMamba."""

import torch

from .base import SCANS, StaticScan


@SCANS.register_module(name='column')
class ColumnScan(StaticScan):
    """Column by column from the top left.

    Source: VMamba, the cross-scan module.
    """

    def order(self, height, width):
        return torch.arange(height * width).view(height, width).t().flatten()


@SCANS.register_module(name='column_reverse')
class ColumnReverseScan(ColumnScan):
    """Column by column from the bottom right: the column scan backwards."""

    def order(self, height, width):
        return super().order(height, width).flip(0)
