"""How the blocks call their linear layers: as functions of ``ops`` where nothing was attached to a layer."""

from torch import nn

from ..layers import is_plain
from ..ops.linear import linear, linear_gelu


def apply_linear(layer, x):
    """Return ``layer(x)``. A plain ``nn.Linear`` is computed by :func:`~mmdefmamba.ops.linear.linear`.

    Args:
        layer: an ``nn.Linear``, or what took its place: quantised, low-rank adapted, with hooks.
        x: (..., in_features).
    """
    return linear(x, layer.weight, layer.bias) if is_plain(layer, nn.Linear) else layer(x)


def apply_ffn(ffn, x):
    """Return ``ffn(x)`` for a sequence of linear layer, GELU, linear layer; computed by ``ops`` where it is plain.

    Args:
        ffn: an ``nn.Sequential``, or what took its place.
        x: (..., channels).
    """
    if not is_plain_ffn(ffn):
        return ffn(x)
    first, _, last = ffn
    return linear(linear_gelu(x, first.weight, first.bias), last.weight, last.bias)


def is_plain_ffn(ffn):
    """Return whether ``ffn`` is a plain sequence of a linear layer, the exact GELU and a linear layer."""
    kinds = (nn.Linear, nn.GELU, nn.Linear)
    plain = is_plain(ffn, nn.Sequential) and len(ffn) == len(kinds) and all(map(is_plain, ffn, kinds))
    return plain and ffn[1].approximate == 'none'
