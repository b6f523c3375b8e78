"""The zigzag scan: diagonal by diagonal, alternately up and down, as JPEG reads its coefficients."""

import torch

from ..ops.sequence_scan.exported import stable_argsort
from .base import SCANS, StaticScan


@SCANS.register_module(name='zigzag')
class ZigzagScan(StaticScan):
    """Anti-diagonals from the top left, odd ones downwards and even ones upwards. Each step goes to an 8-neighbour."""

    def order(self, height, width):
        rows = torch.arange(height).view(-1, 1).expand(-1, width)
        diagonals = rows + torch.arange(width)
        within = torch.where(diagonals % 2 == 1, rows, height - 1 - rows)
        return stable_argsort((diagonals * height + within).flatten())
