"""Base class of scans that compute their order from the features, by a fixed rule that is not learned."""

import torch

from ..ops.precision import at_least_float32
from ..ops.token_order import TokenOrder
from .base import Scan


class ContentScan(Scan):
    """A scan that computes one order per image from the features. A subclass defines :meth:`order`.

    The order itself has no gradient. The gradients of the tokens pass through the permutation.

    Args:
        context: a :class:`ScanContext`, or None if the scan does not use it.
    """

    def order(self, x):
        """Return the scan order of each image.

        Args:
            x: features, (B, C, H, W), float32 or float64, detached from autograd.

        Returns:
            int64 (B, L) on any device. Position i of an image holds the place of its i-th token.
        """
        raise NotImplementedError

    def forward(self, x):
        with torch.no_grad():
            order = self.order(at_least_float32(x.detach()))
        return x, TokenOrder.from_order(order.to(x.device))
