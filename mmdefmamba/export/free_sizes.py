"""Sizes that should stay free in a traced graph: what makes constants of them, and how that is found."""

import contextlib
import sys
from functools import partial

import torch.nn.functional as F

#: What to do about a network whose sizes cannot be free.
REMEDY = 'Export it for one size (--static --shape HEIGHT WIDTH), or only its backbone (--part backbone)'


def check_free(sizes):
    """Refuse a graph in which something that is computed from its free sizes became a constant.

    ``int(2.0 * height)`` does so without an error: the graph then has the height of the traced images for all images.

    Args:
        sizes: free sizes of a graph, symbols.

    Raises:
        ValueError: there is such a constant; the message has the formula and the number.
    """
    for guard in sizes[0].node.shape_env.guards:
        sides = guard.expr.args
        numbers = [side for side in sides if side.is_number]
        # whether a side is 1 or 0 is asked for strides, and changes no number
        if guard.expr.is_Relational and guard.expr.rel_op == '==' and numbers and numbers[0] > 1:
            raise ValueError(f'the network makes a constant of a size: {guard.expr.lhs} = {guard.expr.rhs}. {REMEDY}')


@contextlib.contextmanager
def sizes_of_mmseg(network):
    """Return a context in which mmseg's ``Upsample`` and ``resize`` leave sizes free.

    Both call ``int`` for sizes, which makes constants of them: ``Upsample``, of which the head of Semantic FPN is made,
    for its result, and ``resize`` for a warning about aligned corners.
    """
    wrappers = sys.modules.get('mmseg.models.utils.wrappers')
    if wrappers is None:  # no network of mmseg has been built
        yield
        return
    defaults = wrappers.resize.__defaults__
    changed = [
        module
        for module in network.modules()
        if type(module) is wrappers.Upsample and not module.size and float(module.scale_factor).is_integer()
    ]
    try:
        for module in changed:
            module.forward = partial(_upsample, module)
        wrappers.resize.__defaults__ = (*defaults[:-1], False)  # the last argument: whether it warns
        yield
    finally:
        wrappers.resize.__defaults__ = defaults
        for module in changed:
            del module.forward


def _upsample(module, x):
    size = [side * int(module.scale_factor) for side in x.shape[-2:]]
    return F.interpolate(x, size, None, module.mode, module.align_corners)
