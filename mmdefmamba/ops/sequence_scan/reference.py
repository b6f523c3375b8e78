"""The reference backend, to which tests hold all others: one token after another, differentiated by autograd. Slow."""

import torch
import torch.nn.functional as F

from ..precision import at_least_float32


def selective_scan_reference(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """Run a selective scan as a loop over tokens; arguments as of :func:`.interface.selective_scan`, checked there."""
    out_dtype = u.dtype
    u, delta, A, B, C = (at_least_float32(x) for x in (u, delta, A, B, C))
    groups = B.shape[1]
    if delta_bias is not None:
        delta = delta + delta_bias.to(delta.dtype).unsqueeze(-1)
    if delta_softplus:
        delta = F.softplus(delta)

    # b batch, k groups, d channels of a group, n states
    A = A.unflatten(0, (groups, -1))
    # unbind, not indexing: the gradient of x[..., t] would be a whole tensor of zeros for each t, O(L^2) in total
    u_t, delta_t = (x.unflatten(1, (groups, -1)).unbind(-1) for x in (u, delta))
    B_t, C_t = B.unbind(-1), C.unbind(-1)
    state = u.new_zeros(u.shape[0], *A.shape)
    y = []
    for u_bkd, delta_bkd, B_bkn, C_bkn in zip(u_t, delta_t, B_t, C_t, strict=True):
        decay = torch.exp(delta_bkd.unsqueeze(-1) * A)
        state = decay * state + (delta_bkd * u_bkd).unsqueeze(-1) * B_bkn.unsqueeze(-2)
        y.append((state * C_bkn.unsqueeze(-2)).sum(-1))
    y = torch.stack(y, dim=-1).flatten(1, 2)
    if D is not None:
        y = y + u * D.to(u.dtype).unsqueeze(-1)
    return y.to(out_dtype)
