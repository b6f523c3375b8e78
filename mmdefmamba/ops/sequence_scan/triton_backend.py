"""The Triton backend: an adapter to the kernels of the multi-scan, with K groups, each in its given order."""

from ..triton_scan import grouped_scan_triton, unavailable_reason

__all__ = ['selective_scan_triton', 'unavailable_reason']


def selective_scan_triton(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """Run a selective scan with the Triton kernels; arguments as of :func:`.interface.selective_scan`, checked there.

    The kernels read channel-last tensors. An input that is stored channel-last is read where it lies, whatever its
    shape says; any other input is copied.

    Raises:
        ValueError: there are more than 256 states, or a tensor is too large for 32-bit offsets.
    """
    groups = B.shape[1]

    def channel_last(x):  # (b, k*c, l) -> (b, k, l, c)
        return x.unflatten(1, (groups, -1)).transpose(2, 3)

    B, C = B.transpose(2, 3), C.transpose(2, 3)
    y = grouped_scan_triton(channel_last(u), channel_last(delta), A, B, C, D, delta_bias, delta_softplus)
    return y.transpose(2, 3).flatten(1, 2)
