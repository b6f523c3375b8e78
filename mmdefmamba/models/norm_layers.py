"""How the blocks call their norms: as functions of ``ops`` where nothing was attached to a layer."""

from torch import nn

from ..layers import is_plain
from ..ops.norm import add_norm, conv_norm, layer_norm
from .drop_path import DropPath


def apply_norm(norm, x, act=None, dtype=None):
    """Return ``norm(x)``, or with ``act`` the activation of it, in another dtype if one is given.

    Args:
        norm: an ``nn.LayerNorm`` over the channels, or what took its place.
        x: (B, ..., C).
        act: an ``nn.GELU``, or what took its place, or None.
        dtype: of the result, or None: what the layers return.
    """
    if _is_plain_norm(norm, x.shape[-1], act):
        return layer_norm(x, norm.weight, norm.bias, norm.eps, gelu=act is not None, dtype=dtype)
    y = norm(x) if act is None else act(norm(x))
    return y if dtype is None else y.to(dtype)


def apply_conv_norm(conv, norm, x, act=None, dtype=None):
    """Return ``norm(conv(x))`` of a map (B, H, W, C); for the other arguments see :func:`apply_norm`.

    Args:
        conv: an ``nn.Conv2d``, or what took its place; it gets (B, C, H, W).
    """
    if (
        is_plain(conv, nn.Conv2d)
        and (conv.padding_mode, conv.dilation, conv.groups) == ('zeros', (1, 1), 1)
        and _is_plain_norm(norm, conv.out_channels, act)
    ):
        of_conv, of_norm = (conv.weight, conv.bias, conv.stride, conv.padding), (norm.weight, norm.bias, norm.eps)
        return conv_norm(x, *of_conv, *of_norm, gelu=act is not None, dtype=dtype)
    return apply_norm(norm, conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), act, dtype)


def _is_plain_norm(norm, channels, act=None):
    gelu = act is not None and is_plain(act, nn.GELU) and act.approximate == 'none'
    return is_plain(norm, nn.LayerNorm) and norm.normalized_shape == (channels,) and (gelu or act is None)


def add_and_norm(x, branch, drop_path, norm, dtype=None):
    """Return ``x + drop_path(branch)``, and ``norm`` of it.

    Args:
        x, branch: (B, ..., C).
        drop_path: a :class:`DropPath`, or what took its place.
        norm: an ``nn.LayerNorm`` over the channels, or what took its place.
        dtype: of the second result, or None: what the norm returns.
    """
    if _is_plain_norm(norm, x.shape[-1]) and is_plain(drop_path, DropPath):
        options = dict(kept=drop_path.kept(branch), keep_prob=1 - drop_path.drop_prob, dtype=dtype)
        return add_norm(x, branch, norm.weight, norm.bias, norm.eps, **options)
    x = x + drop_path(branch)
    return x, apply_norm(norm, x, dtype=dtype)
