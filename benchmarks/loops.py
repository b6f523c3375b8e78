"""Loops over tokens as a baseline, with the arguments of ``mmdefmamba.ops.selective_scan``."""

import torch
import torch.nn.functional as F


def materialising_loop(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """Run a loop in the form of mamba-ssm's reference: decays and inputs of all tokens first, then token by token.

    Memory grows with length * channels * states. Use it for the forward only: its indexing makes the backward
    O(length^2).
    """
    groups = B.shape[1]
    delta = delta if delta_bias is None else delta + delta_bias.unsqueeze(-1)
    delta = F.softplus(delta) if delta_softplus else delta
    B, C = (x.repeat_interleave(u.shape[1] // groups, dim=1) for x in (B, C))  # (b, d, n, l)
    decay = torch.exp(torch.einsum('bdl,dn->bdln', delta, A))
    inputs = torch.einsum('bdl,bdnl,bdl->bdln', delta, B, u)
    state = u.new_zeros(u.shape[0], *A.shape)
    y = []
    for t in range(u.shape[-1]):
        state = decay[:, :, t] * state + inputs[:, :, t]
        y.append(torch.einsum('bdn,bdn->bd', state, C[..., t]))
    y = torch.stack(y, dim=-1)
    return y if D is None else y + u * D.unsqueeze(-1)
