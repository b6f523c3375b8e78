"""A Hilbert curve for any rectangle: whatever is close in the sequence is close on the map."""

import torch

from .base import SCANS, StaticScan


@SCANS.register_module(name='hilbert')
class HilbertScan(StaticScan):
    """Generalised Hilbert curve, from the top left to the other end of the longer side.

    Steps go to a 4-neighbour, with one exception: where the longer side is odd and the shorter one even and not 2,
    exactly one step of the curve is diagonal. No walk over all tokens between those two corners does without: on a
    chessboard they have one colour, and an even number of places needs two. (With two lines the walk ends one
    place short of that corner instead.)

    Source: the recursion of the generalised Hilbert curve; used for tokens by ZigMa and FractalMamba.
    """

    def order(self, height, width):
        if width >= height:
            return torch.tensor(_walk(0, width, 1, height, width))
        return torch.tensor(_walk(0, height, width, width, 1))


def _walk(start, length, along, breadth, across):
    """Flat indices of a block, from ``start`` to the place at the end of its length.

    Args:
        start: flat index of a corner of the block.
        length, along: places along the walk's direction, and the step in flat indices from one to the next.
        breadth, across: the same, perpendicular to it.
    """
    if breadth == 1:
        return [start + i * along for i in range(length)]
    if length == 1:
        return [start + i * across for i in range(breadth)]
    if 2 * length > 3 * breadth:  # long: one block behind the other
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
    """About half of ``size``, even where it can be: a walk ends beside its start's row only after an even number."""
    half = size // 2
    return half + half % 2 if size > 2 else half
