"""Helpers for tensors that several operators share."""

import torch

# PyTorch 2.7 says within torch.compile that it exports, which is not so. 2.11 does not; nothing between was tried.
_COMPILING_SAYS_EXPORTING = torch.__version__ < (2, 11)


def is_exporting():
    """Return whether torch.export follows the operations, and torch.compile does not."""
    exporting = torch.compiler.is_exporting()
    return exporting and not (_COMPILING_SAYS_EXPORTING and torch.compiler.is_dynamo_compiling())


def needs_gradient(*tensors):
    """Return whether autograd records an operator of these tensors. None is skipped."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def intervals(size):
    """Return the number of intervals between ``size`` equidistant points, ``size - 1``, but at least 1.

    Args:
        size: an integer. In an exported graph whose size is free it is a symbol, and so is the result.
    """
    return torch.sym_max(size - 1, 1) if is_exporting() else max(size - 1, 1)


def any_is_free(*sizes):
    """Return whether torch.compile, which runs now, leaves one of some sizes free.

    Older versions of PyTorch cannot tell, and the answer is no there: the graph breaks at a scan then.
    """
    from torch.fx.experimental import symbolic_shapes  # here: only compiling needs it, and it takes time to import

    is_number = getattr(symbolic_shapes, 'has_static_value', None)
    return is_number is not None and not all(is_number(size) for size in sizes)


def decisions_about(*sizes):
    """Return the decisions that PyTorch has noted about free sizes of an exported graph; None if no size is free.

    Whether a side is 1 is left out: PyTorch asks for that to choose strides, which changes no number.

    Args:
        *sizes: integers, or the symbols that stand for free sizes while torch.export runs.

    Returns:
        A list of conditions as text.
    """
    free = [size for size in sizes if not isinstance(size, int)]
    if not free:
        return None
    conditions = (guard.expr for guard in free[0].node.shape_env.guards)
    return [str(condition) for condition in conditions if not _compares_with_one(condition)]


def _compares_with_one(condition):
    sides = condition.args
    return len(sides) == 2 and any(side.is_number and side <= 1 for side in sides) and 'Mod' not in str(condition)


def distinct(tensors):
    """Find which of several tensors are the same object.

    Args:
        tensors: a sequence of tensors.

    Returns:
        The distinct tensors in order of appearance, and for each of ``tensors`` its index among them.
    """
    found, indices = [], []
    for x in tensors:
        same = [i for i, other in enumerate(found) if other is x]
        indices.append(same[0] if same else len(found))
        found += [] if same else [x]
    return found, indices


def channel_last(x):
    """Return ``x`` with unit stride in its last dimension; a copy only if its stride is another.

    GPU lanes read neighbouring channels (or states). Without unit stride each lane would fetch a memory sector of its
    own.
    """
    return x if x.stride(-1) == 1 else x.contiguous()


def check_offsets(name, x):
    """Refuse a map that is too large for the Triton kernels, whose offsets within one map have 32 bits.

    Args:
        name: how the error calls ``x``.
        x: (..., L, channels), unit stride in the last dimension.

    Raises:
        ValueError: the last two dimensions span 2^31 numbers or more.
    """
    if x.shape[-2] * max(x.stride(-2), x.shape[-1]) >= 2**31:
        raise ValueError(
            f'{name} {tuple(x.shape)} is too large: the Triton kernels address at most 2^31 numbers of one scan of '
            "one image. Use smaller images or backend='blockwise'"
        )


def grid_of(programs):
    """Return the grid of a launch of Triton kernels: one dimension, with that many programs.

    CUDA takes 2^31 - 1 programs in the first dimension of a grid, and 65,535 in the others. So the batch lies in the
    first one, whatever else does.

    Raises:
        ValueError: there are more.
    """
    if programs >= 2**31:
        raise ValueError(
            f'{programs} programs are more than the 2^31 - 1 that a GPU takes at once. Use a smaller batch'
        )
    return (programs,)
