"""Column by column from the top left, and the same backwards; with the raster scans VMamba's four-way cross-scan."""

import torch

from .base import SCANS, StaticScan


@SCANS.register_module(name='column')
class ColumnScan(StaticScan):
    """Column-major.

    Source: VMamba, the cross-scan module.
    """

    def order(self, height, width):
        return torch.arange(height * width).view(height, width).t().flatten()


@SCANS.register_module(name='column_reverse')
class ColumnReverseScan(ColumnScan):
    """Column-major, backwards."""

    def order(self, height, width):
        return super().order(height, width).flip(0)
