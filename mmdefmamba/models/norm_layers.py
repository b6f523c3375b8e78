"""How the blocks call their norms: as functions of ``ops`` where nothing was attached to a layer."""

from torch import nn

from ..layers import is_plain
from ..ops.norm import add_norm, layer_norm
from .drop_path import DropPath


def apply_norm(norm, x, act=None, dtype=None):
    """Return ``norm(x)``, or with ``act`` the activation of it, in another dtype if one is given.

    Args:
        norm: an ``nn.LayerNorm`` over the channels, or what took its place.
        x: (B, ..., C).
        act: an ``nn.GELU``, or what took its place, or None.
        dtype: of the result, or None: what the layers return.
    """
    gelu = act is not None and is_plain(act, nn.GELU) and act.approximate == 'none'
    if is_plain(norm, nn.LayerNorm) and norm.normalized_shape == x.shape[-1:] and (gelu or act is None):
        return layer_norm(x, norm.weight, norm.bias, norm.eps, gelu=gelu, dtype=dtype)
    y = norm(x) if act is None else act(norm(x))
    return y if dtype is None else y.to(dtype)


def add_and_norm(x, branch, drop_path, norm, dtype=None):
    """Return ``x + drop_path(branch)``, and ``norm`` of it.

    Args:
        x, branch: (B, ..., C).
        drop_path: a :class:`DropPath`, or what took its place.
        norm: an ``nn.LayerNorm`` over the channels, or what took its place.
        dtype: of the second result, or None: what the norm returns.
    """
    plain = is_plain(norm, nn.LayerNorm) and norm.normalized_shape == x.shape[-1:]
    if plain and is_plain(drop_path, DropPath):
        options = dict(kept=drop_path.kept(branch), keep_prob=1 - drop_path.drop_prob, dtype=dtype)
        return add_norm(x, branch, norm.weight, norm.bias, norm.eps, **options)
    x = x + drop_path(branch)
    return x, apply_norm(norm, x, dtype=dtype)
