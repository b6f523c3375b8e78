"""The offset network after its convolution, as few kernels: channel attention, and from its map to offsets and keys.

The layers of the offset network are the definition, see :mod:`mmdefmamba.scans.deformable`. The functions here compute
the same where :func:`~.sequence_scan.interface.prefers_triton` says so. They read a map stored channel-last where it
lies, compute in float32 and round nothing in between. Gradients are the same bits in each run.
"""

from .precision import without_autocast
from .triton_maps import channel_attention_triton, offset_head_triton


def channel_attention(x, fc1, bias1, fc2, bias2):
    """Return the weights of the channels, sigmoid(fc2(GELU(fc1(mean over the map)))).

    Args:
        x: a map, (B, C, H, W).
        fc1, bias1: first linear layer, (hidden, C) and (hidden,).
        fc2, bias2: second linear layer, (C, hidden) and (C,).

    Returns:
        (B, C), float32.
    """
    with without_autocast(x.device.type):
        return channel_attention_triton(_tokens(x), fc1, bias1, fc2, bias2)


def offset_head(x, weights, norm_weight, norm_bias, eps, proj, *, points, order, formulation='paper', norm_first=True):
    """Return bounded point offsets and sort keys of the tokens of a map.

    It computes raw offsets, proj(GELU(LayerNorm(x * weights))), and what
    :meth:`~mmdefmamba.scans.DeformableScan.constrain` and ``sort_keys`` of the same class make of them.

    Args:
        x: a map, (B, C, H, W).
        weights: of its channels, (B, C), or None.
        norm_weight, norm_bias, eps: of the LayerNorm over channels, (C,), (C,) and a number.
        proj: rows y and x if there are points, and then the row of the order if there is one, (rows, C).
        points, order: whether there are point offsets, and whether there are keys.
        formulation: 'paper' or 'released', which give the range of the offsets and the reference index.
        norm_first: whether LayerNorm comes before GELU.

    Returns:
        Point offsets (B, H, W, 2) and keys (B, H*W), float32; None for what there is not.
    """
    batch, _, *size = x.shape
    options = (size, points, order, formulation == 'released', norm_first)
    with without_autocast(x.device.type):
        offsets, keys = offset_head_triton(_tokens(x), weights, norm_weight, norm_bias, proj, eps, *options)
    return offsets.view(batch, *size, 2) if points else None, keys if order else None


def _tokens(x):
    return x.flatten(2).transpose(1, 2)
