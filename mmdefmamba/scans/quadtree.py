"""The quadtree scan: small windows where the features vary much, large windows where they vary little."""

import torch

from ..ops.sequence_scan.exported import stable_argsort
from .base import SCANS
from .content import ContentScan


@SCANS.register_module(name='quadtree')
class QuadtreeScan(ContentScan):
    """The leaves of a quadtree in depth-first order, row by row inside each.

    The map is cut into four windows. On each further level the window that varies most is cut into four again. The
    measure is the variance of the window's tokens, averaged over channels. Only the order is that of QuadMamba. There a
    small network scores the windows and is trained through a relaxation; here nothing is learned.

    Args:
        context: the :class:`~mmdefmamba.scans.ScanContext` of its place in the network.
        levels: depth of the tree.

    Raises:
        ValueError: ``levels`` is not positive.

    Source: QuadMamba, quadtree-based scanning.
    """

    def __init__(self, context=None, levels=2):
        super().__init__(context)
        if levels < 1:
            raise ValueError(f'levels must be positive, got {levels}')
        self.levels = levels

    def order(self, x):
        batch, _, height, width = x.shape
        tokens_BCL = x.flatten(2)
        key = windows(height, width, 1, x.device).expand(batch, -1)
        leaf = torch.ones_like(key, dtype=torch.bool)  # whether the window of a token may still be cut
        for level in range(1, self.levels):
            window = windows(height, width, level, x.device)
            score = window_variance(tokens_BCL, window, 4**level)
            # a window inside a coarser leaf cannot be cut; all tokens of a window agree on this
            cuttable = torch.zeros_like(score).scatter_(1, window.expand(batch, -1), leaf.to(score.dtype)) > 0
            cut = score.masked_fill(~cuttable, -1).argmax(dim=1, keepdim=True)  # the first of equals
            leaf = window == cut
            finer = windows(height, width, level + 1, x.device)
            key = torch.where(leaf, finer, key * 4)
        return stable_argsort(key)


def windows(height, width, level, device):
    """Return the depth-first index, 0 to 4 ** level - 1, of the window that contains each token, (L,)."""

    def halves(size):
        return torch.arange(size, device=device) * 2**level // size

    rows, columns = halves(height).view(-1, 1), halves(width)
    index = torch.zeros(height, width, dtype=torch.long, device=device)
    for bit in range(level):
        index = index + (rows // 2**bit % 2 * 2 + columns // 2**bit % 2) * 4**bit
    return index.flatten()


def window_variance(tokens_BCL, window, num_windows):
    """Return the variance of each window's tokens, averaged over channels, (B, num_windows); 0 without tokens."""
    member = torch.nn.functional.one_hot(window, num_windows).to(tokens_BCL.dtype)
    average = member / member.sum(0).clamp(min=1)
    mean = tokens_BCL @ average
    deviation = tokens_BCL - mean[..., window]
    return deviation.square().mean(1) @ average
