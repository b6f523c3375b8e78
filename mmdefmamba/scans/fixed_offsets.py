"""A control for the deformable scan: the same scan with offsets that do not depend on the map and are not learned."""

import torch

from .base import SCANS
from .deformable import DeformableScan

OFFSETS = ('zero', 'random')


@SCANS.register_module(name='deformable_fixed')
class FixedOffsetScan(DeformableScan):
    """The deformable scan with fixed offsets, which are the same for all images, and without an offset network.

    A network with this scan shows what remains of the deformable scan if nothing about points and order is learned.

    Args:
        context: the :class:`~mmdefmamba.scans.ScanContext` of its place in the network.
        offsets: 'zero', so that each token reads the reference point and the order is row by row; or 'random', raw
            offsets from a normal distribution with mean 0 and deviation 1, bounded as those of the offset network are.
        seed: seed of the random offsets. They are drawn anew for each size of map, always the same.
        points, order, offset_bias, key_dtype, point_dtype: as of :class:`.DeformableScan`.

    Raises:
        ValueError: ``offsets`` is unknown, or as :class:`.DeformableScan`.
    """

    def __init__(self, context, offsets='random', seed=0, **kwargs):
        if offsets not in OFFSETS:
            raise ValueError(f'offsets must be one of {OFFSETS}, got {offsets!r}')
        super().__init__(context, channel_attention=False, **kwargs)
        self.fixed, self.seed = offsets, seed
        self.offset_network = None

    def offsets(self, u):
        """Return the offsets for a map (B, C, H, W), as :meth:`.DeformableScan.constrain` does."""
        shape = (1, 2 * self.points + self.order, *u.shape[-2:])
        if self.fixed == 'zero':
            raw = u.new_zeros(shape)
        else:  # drawn on the CPU, so that all devices have the same numbers
            generator = torch.Generator().manual_seed(self.seed)
            raw = torch.randn(shape, generator=generator).to(u.device, u.dtype)
        return self.constrain(raw.expand(u.shape[0], -1, -1, -1))
