"""Every second token of every second row, then the ones left out: each pass sees the whole map coarsely."""

import torch

from .base import SCANS, StaticScan


@SCANS.register_module(name='atrous')
class AtrousScan(StaticScan):
    """The ``stride * stride`` subsets of a strided grid, one after another in one sequence, raster inside each.

    EfficientVMamba gives each subset to a scan of its own, which sees a quarter of the tokens. Here every scan sees
    all of them; ``start`` says whose turn is first, so ``start=0, 1, 2, 3`` are four scans that differ as those do.

    Args:
        context: the :class:`~mmdefmamba.scans.ScanContext` of its place in the network.
        stride: distance of neighbours in a subset.
        start: subset that comes first, ``row % stride * stride + column % stride``; the rest follow cyclically.
        reverse: as for any :class:`~mmdefmamba.scans.StaticScan`.

    Raises:
        ValueError: ``stride`` is not positive, or ``start`` names no subset.

    Source: EfficientVMamba, efficient 2D scanning.
    """

    def __init__(self, context=None, stride=2, start=0, reverse=False):
        super().__init__(context, reverse)
        if stride < 1:
            raise ValueError(f'stride must be positive, got {stride}')
        if not 0 <= start < stride**2:
            raise ValueError(f'start must be from 0 to {stride**2 - 1}, got {start}')
        self.stride, self.start = stride, start

    def order(self, height, width):
        rows = torch.arange(height).view(-1, 1) % self.stride
        columns = torch.arange(width) % self.stride
        subset = rows * self.stride + columns
        return ((subset - self.start) % self.stride**2).flatten().argsort(stable=True)
