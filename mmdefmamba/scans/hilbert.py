"""The Hilbert scan, for maps of any size: tokens that are close in the sequence are close on the map."""

import torch

from .base import SCANS, StaticScan


@SCANS.register_module(name='hilbert')
class HilbertScan(StaticScan):
    """A generalised Hilbert curve from the top left to the other end of the longer side.

    Each step goes to a 4-neighbour, with one exception. If the longer side is odd and the shorter side is even and not
    2, exactly one step is diagonal. No walk over all tokens between these two corners can avoid it: on a chessboard
    both corners have the same colour, but a walk over an even number of places ends on the other colour. (If the
    shorter side is 2, the walk ends one place before that corner instead.)

    Source: the recursion of the generalised Hilbert curve; used for tokens by ZigMa and FractalMamba.
    """

    one_size = True

    def order(self, height, width):
        if width >= height:
            return torch.tensor(_walk(0, width, 1, height, width))
        return torch.tensor(_walk(0, height, width, width, 1))


def _walk(start, length, along, breadth, across):
    """Return the flat indices of a block, from ``start`` to the place at the end of its length.

    Args:
        start: flat index of a corner of the block.
        length, along: number of places in the direction of the walk, and the step in flat indices between neighbours.
        breadth, across: the same for the perpendicular direction.
    """
    if breadth == 1:
        return [start + i * along for i in range(length)]
    if length == 1:
        return [start + i * across for i in range(breadth)]
    if 2 * length > 3 * breadth:  # a long block: two blocks, one behind the other
        half = _even_half(length)
        behind = _walk(start + half * along, length - half, along, breadth, across)
        return _walk(start, half, along, breadth, across) + behind
    half, first = _even_half(breadth), length // 2
    out = _walk(start, half, across, first, along)
    over = _walk(start + half * across, length, along, breadth - half, across)
    last = start + (length - 1) * along
    back = _walk(last + (half - 1) * across, half, -across, length - first, -along)
    return out + over + back


def _even_half(size):
    """Return about half of ``size``, even if possible: a walk over an even number of lines ends where it began."""
    half = size // 2
    return half + half % 2 if size > 2 else half
