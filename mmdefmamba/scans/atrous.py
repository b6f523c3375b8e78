"""The atrous scan: every second token of every second row, then the tokens left out. Each pass covers the whole map."""

import torch

from ..ops.sequence_scan.exported import stable_argsort
from .base import SCANS, StaticScan


@SCANS.register_module(name='atrous')
class AtrousScan(StaticScan):
    """The ``stride * stride`` subsets of a strided grid, one after another in one sequence, row by row inside each.

    EfficientVMamba gives each subset to a scan of its own, which sees a quarter of the tokens. Here each scan sees all
    tokens, and ``start`` selects the subset that comes first. Four scans with ``start=0, 1, 2, 3`` therefore differ as
    the four scans of EfficientVMamba do.

    Args:
        context: the :class:`~mmdefmamba.scans.ScanContext` of its place in the network.
        stride: distance between neighbours of a subset.
        start: subset that comes first, ``row % stride * stride + column % stride``. The others follow cyclically.
        reverse: as for any :class:`~mmdefmamba.scans.StaticScan`.

    Raises:
        ValueError: ``stride`` is not positive, or ``start`` is not from 0 to ``stride**2 - 1``.

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
        return stable_argsort(((subset - self.start) % self.stride**2).flatten())
