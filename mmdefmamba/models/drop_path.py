"""Stochastic depth: in training a residual branch is dropped for some of the images."""

import torch
from torch import nn


class DropPath(nn.Module):
    """A layer that, in training, drops each sample with a given probability and scales up the others.

    The expected value stays the same. In eval mode the input is returned unchanged. Random numbers are drawn as in
    mmcv's DropPath, so with the same seed both drop the same samples.

    Args:
        drop_prob: probability that a sample is dropped, in [0, 1).

    Source: Deep Networks with Stochastic Depth (Huang et al., 2016).
    """

    def __init__(self, drop_prob=0.0):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        """Return ``x``, (batch, ...), with whole samples set to zero."""
        kept = self.kept(x)
        return x if kept is None else x / (1 - self.drop_prob) * kept

    def kept(self, x):
        """Draw which samples of ``x`` are kept: 1 or 0 for each, (batch, 1, ...); None if all are kept as they are."""
        if self.drop_prob == 0 or not self.training:
            return None
        shape = (x.shape[0], *[1] * (x.ndim - 1))
        return (1 - self.drop_prob + torch.rand(shape, dtype=x.dtype, device=x.device)).floor()

    def extra_repr(self):
        return f'drop_prob={self.drop_prob}'
