"""Adapter onto the Triton kernels of the multi-scan: K groups, each walked row by row."""

from ..triton_scan import grouped_scan_triton, unavailable_reason

__all__ = ['selective_scan_triton', 'unavailable_reason']


def selective_scan_triton(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """Selective scan by Triton kernels; arguments as in :func:`..interface.selective_scan`, checked there.

    The kernels are channel-last. Inputs that are stored so, channel-first by shape alone, are read as they lie; others
    are copied.

    Raises:
        ValueError: more than 256 states, or a tensor too large for 32-bit offsets.
    """
    groups = B.shape[1]

    def channel_last(x):  # (b, k*c, l) -> (b, k, l, c)
        return x.unflatten(1, (groups, -1)).transpose(2, 3)

    B, C = B.transpose(2, 3), C.transpose(2, 3)
    y = grouped_scan_triton(channel_last(u), channel_last(delta), A, B, C, D, delta_bias, delta_softplus)
    return y.transpose(2, 3).flatten(1, 2)
