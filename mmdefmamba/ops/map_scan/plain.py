"""The multi-scan in three steps: tokens into their orders, one grouped selective scan, tokens back to their places."""

import torch

from ..sequence_scan import selective_scan
from ..token_order import permute_tokens, restore_tokens


def multi_scan_plain(maps, delta, A, B, C, D, delta_bias, orders, backend):
    """Run a multi-scan with any backend of the selective scan; arguments as of :func:`.multi.multi_scan`."""

    def in_order(x_K):  # K tensors (B, L, X) -> (B, K*X, L), stored channel-last, as the scan for CPUs reads it
        sequences = [permute_tokens(x, order) for x, order in zip(x_K, orders, strict=True)]
        return torch.stack(sequences, dim=2).flatten(2).transpose(1, 2)

    def grouped(x):  # (B, K, L, N) -> (B, K, N, L)
        return in_order(x.unbind(1)).unflatten(1, (len(maps), -1))

    y = selective_scan(
        in_order(maps), in_order(delta.unbind(1)), A, grouped(B), grouped(C), D, delta_bias, backend=backend
    )
    sequences = y.transpose(1, 2).unflatten(2, (len(maps), -1)).unbind(2)
    return torch.stack([restore_tokens(s, order) for s, order in zip(sequences, orders, strict=True)], dim=1)
