"""Activation maps: how much each token influences one token through the scans of a block (DefMamba, figure 4)."""

import torch

# Number of tokens whose decays are in memory at the same time; with C = 96 and N = 16 these are 25 MB.
CHUNK = 4096


def activation_map(trace, token, image=0, scan=None):
    """Compute how much the value of each token changes the result of one token, through the scans of a block.

    If a scan visits token s at or before token t, then for each channel

        y_t = ... + w(t, s) u_s,    w(t, s) = sum_n C_t[n] exp(A[n] (sum of delta after s up to t)) delta_s B_s[n]

    and w is zero for the tokens that it visits after t. The map is |w| averaged over channels. With ``scan=None``, w is
    first averaged over the K scans, as the block averages their results. The value of a token is then what every scan
    reads at its place, and influences of opposite sign cancel.

    Time step, B and C also depend on the values. Here they are constants, so that w is the factor by which the scan
    multiplies a value. The skip D is left out, because it depends on no other token and would outshine them at t.
    VMamba, whose method the paper names for this figure, draws sum_n C_t[n] exp(...) B_s[n], without the time step of
    s. With the time step, the map is the derivative of what the network computes.

    Args:
        trace: a :class:`~mmdefmamba.analysis.BlockTrace` with its state space.
        token: (row, column) of the token on the block's map; negative numbers count from the end.
        image: index of the image in the batch.
        scan: name or index of one of the trace's scans, or None for their mean.

    Returns:
        (H, W), not negative, dtype of the trace. What the deformable scan reads for a token is shown at the token's
        place.

    Raises:
        ValueError: the trace has no state space, the token lies outside the map, or the trace does not have this scan.
    """
    if trace.delta is None:
        raise ValueError(f'{trace.label} was traced with state_space=False: an activation map needs state_space=True')
    place = place_of_token(token, trace.map_size)
    chosen = range(len(trace.scans)) if scan is None else [trace.scan_index(scan)]
    weights = sum(_weights(trace, image, k, place) for k in chosen) / len(chosen)
    return weights.abs().mean(-1).view(trace.map_size)


def place_of_token(token, map_size):
    """Return the index, row by row, of a token (row, column) on a map (H, W); negative numbers count from the end.

    Raises:
        ValueError: the token lies outside the map.
    """
    if len(token) != 2 or any(not -size <= i < size for i, size in zip(token, map_size, strict=True)):
        raise ValueError(
            f'token must be (row, column) on a map of {map_size[0]} x {map_size[1]} tokens, counted from 0, got '
            f'{tuple(token)}'
        )
    row, column = (i % size for i, size in zip(token, map_size, strict=True))
    return row * map_size[1] + column


def _weights(trace, image, k, place):
    """Compute w(t, s) of scan ``k`` for the token t at ``place`` and every place s, (L, C)."""
    order, delta, A, B = trace.orders[k][image], trace.delta[image, k], trace.A[k], trace.B[image, k]
    C = trace.C[image, k, place]
    step = int((order == place).nonzero())
    weights = torch.zeros_like(delta)
    elapsed = torch.zeros_like(delta[:1])  # sum of the time steps after s, up to t
    for end in range(step + 1, 0, -CHUNK):
        places = order[max(end - CHUNK, 0) : end]
        delta_sC = delta[places]
        # summed backwards from the last token of the chunk; the time step of a token itself is not part of its sum
        since = elapsed + delta_sC.flip(0).cumsum(0).flip(0)
        elapsed, since = since[:1], torch.cat([since[1:], elapsed])
        decay_sCN = torch.exp(since.unsqueeze(-1) * A)
        weights[places] = torch.einsum('n,scn,sn->sc', C, decay_sCN, B[places]) * delta_sC
    return weights
