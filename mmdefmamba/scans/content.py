"""What scans have in common whose order follows from the features, without learning it."""

import torch

from ..ops.precision import at_least_float32
from ..ops.token_order import TokenOrder
from .base import Scan


class ContentScan(Scan):
    """A scan with an order for each image. A subclass says its :meth:`order`, no more.

    The order is a number of its own: no gradient goes through it, the tokens get theirs as under any permutation.
    """

    def order(self, x):
        """The scan order of each image.

        Args:
            x: (B, C, H, W), float32 or float64, outside of autograd.

        Returns:
            int64 (B, L), position i of an image holds the index of its i-th token's place; on any device.
        """
        raise NotImplementedError

    def forward(self, x):
        with torch.no_grad():
            order = self.order(at_least_float32(x.detach()))
        return x, TokenOrder.from_order(order.to(x.device))
