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


def check_offsets(name, x):
    """Refuse a map of more elements than the Triton kernels, which count within one in 32 bits, can address.

    Args:
        name: of ``x`` in the error.
        x: (..., L, channels), unit stride in the last dimension.

    Raises:
        ValueError: it is too large.
    """
    if x.shape[-2] * max(x.stride(-2), x.shape[-1]) >= 2**31:
        raise ValueError(
            f'{name} {tuple(x.shape)} is too large: the Triton kernels address 2^31 numbers of one scan of one image. '
            "Take smaller images, or backend='blockwise'"
        )
