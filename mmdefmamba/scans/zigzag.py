"""Diagonal by diagonal, up and down in turns: the order in which JPEG reads its coefficients."""

import torch

from .base import SCANS, StaticScan


@SCANS.register_module(name='zigzag')
class ZigzagScan(StaticScan):
    """Anti-diagonals from the top left, odd ones downwards, even ones upwards; steps go to one of 8 neighbours."""

    def order(self, height, width):
        rows = torch.arange(height).view(-1, 1).expand(-1, width)
        diagonals = rows + torch.arange(width)
        within = torch.where(diagonals % 2 == 1, rows, height - 1 - rows)
        return (diagonals * height + within).flatten().argsort()
