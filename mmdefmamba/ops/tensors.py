"""Small questions that several operators ask of their tensors."""


def distinct(tensors):
    """Which of several tensors are the same object.

    Args:
        tensors: a sequence of tensors.

    Returns:
        The distinct ones in order of appearance, and for each of ``tensors`` its index among them.
    """
    found, indices = [], []
    for x in tensors:
        same = [i for i, other in enumerate(found) if other is x]
        indices.append(same[0] if same else len(found))
        found += [] if same else [x]
    return found, indices


def channel_last(x):
    """``x`` with unit stride in its last dimension, copied where it has another.

    GPU lanes read neighbouring channels (or states): without unit stride each would fetch a sector of its own.
    """
    return x if x.stride(-1) == 1 else x.contiguous()
