"""The last step of a DSSM: the mean of its scans, multiplied by a gate."""

import torch.nn.functional as F

from .precision import saturate, without_autocast
from .sequence_scan.interface import choose_backend
from .triton_scan import merge_scans_triton


def merge_scans(y, z, *, backend='auto'):
    """Average the scans and gate the mean: mean_k(y_k) * SiLU(z).

    Args:
        y: results of K scans, each token at its own place, (batch, K, L, channels), any floating dtype.
        z: gate, (batch, L, channels), any strides.
        backend: the backend of the scans, see :func:`~mmdefmamba.ops.selective_scan`. 'triton' reads y once and rounds
            once; any other backend uses PyTorch's own operators.

    Returns:
        (batch, L, channels), in the wider of the dtypes of ``y`` and ``z``. In float16 an overflow becomes 65504, not
        infinity.

    Raises:
        ValueError: the shapes do not fit each other, or the backend is unknown.
        RuntimeError: the named backend cannot run here; the message says why.

    Source: DefMamba, figure 3a.
    """
    if y.ndim != 4 or (y.shape[0], *y.shape[2:]) != tuple(z.shape):
        raise ValueError(
            'y must be (batch, K, L, channels) and z (batch, L, channels) of the same sizes, '
            f'got {tuple(y.shape)} and {tuple(z.shape)}'
        )
    if choose_backend(backend, y) == 'triton':
        with without_autocast(y.device.type):
            return saturate(merge_scans_triton(y, z))
    return saturate(y.mean(1) * F.silu(z))
