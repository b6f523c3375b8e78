"""The multi-scan of an exported graph: tokens into their orders, one operator that scans, tokens back."""

import torch
import torch.nn.functional as F

from ..sequence_scan.exported import scan_sequences
from ..token_order import permute_tokens, restore_tokens


def multi_scan_exported(maps, delta, A, B, C, D, delta_bias, orders):
    """Run a multi-scan; arguments as of :func:`.multi.multi_scan`, checked there. The keys of orders are ignored."""
    scans, channels, states = len(maps), maps[0].shape[-1], A.shape[-1]
    delta_bias, skip = delta_bias.view(scans, channels), D.view(scans, channels)
    sequences = []
    for k, (u, order) in enumerate(zip(maps, orders, strict=True)):
        # one row per token: a runtime then reads each row once, instead of four times
        rows = torch.cat([u, F.softplus(delta[:, k] + delta_bias[k]), B[:, k], C[:, k]], dim=-1)
        sequences.append(rows.flip(1) if order is not None and order.backwards else permute_tokens(rows, order))
    inputs = torch.stack(sequences, dim=1).split([channels, channels, states, states], dim=-1)
    u, delta, B, C = inputs
    y = scan_sequences(u, delta, A.view(scans, channels, states).transpose(1, 2).contiguous(), B, C)
    results = []
    for k, order in enumerate(orders):
        back = y[:, k].flip(1) if order is not None and order.backwards else restore_tokens(y[:, k], order)
        results.append(back + maps[k] * skip[k])
    return torch.stack(results, dim=1)
