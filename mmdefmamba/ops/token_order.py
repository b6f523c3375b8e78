"""Bringing tokens into an order and back, and the surrogate gradient of a learned order.

A token order is a permutation of L places, one for all images, (L,), or one an image, (B, L).
"""

from typing import NamedTuple

import torch

GRADIENTS = ('paper', 'released')


class TokenOrder(NamedTuple):
    """A permutation and its inverse, int64, each (L,) or (B, L).

    Position ``i`` of the scanned sequence holds the token of place ``order[i]``; place ``j`` of the map is found
    at position ``inverse[j]``.
    """

    order: torch.Tensor
    inverse: torch.Tensor

    @classmethod
    def from_order(cls, order):
        """Complete a permutation, (L,) or (B, L), with its inverse."""
        places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
        return cls(order, torch.empty_like(order).scatter_(-1, order, places))


def _gather(tokens, index):
    """tokens (B, C, L) read at ``index``, (L,) or (B, L); rows of channels are moved whole."""
    tokens_BLC = tokens.transpose(1, 2)
    if index.ndim == 1:
        return tokens_BLC.index_select(1, index).transpose(1, 2)
    batch, length, channels = tokens_BLC.shape
    offset = torch.arange(0, batch * length, length, device=index.device).unsqueeze(1)
    rows = tokens_BLC.reshape(batch * length, channels).index_select(0, (index + offset).flatten())
    return rows.view(batch, length, channels).transpose(1, 2)


class _Permute(torch.autograd.Function):
    """A permutation is undone by its inverse, so the gradient is a gather as well: no scatter, deterministic."""

    @staticmethod
    def forward(ctx, tokens, index, inverse):
        ctx.save_for_backward(inverse)
        return _gather(tokens, index)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (inverse,) = ctx.saved_tensors
        return _gather(grad, inverse), None, None


def permute_tokens(tokens, order):
    """Bring tokens from their places on the map into scan order.

    Args:
        tokens: (B, C, L), any dtype.
        order: a :class:`TokenOrder` of (L,) or (B, L).

    Returns:
        The sequence, (B, C, L), dtype of ``tokens``.
    """
    return _Permute.apply(tokens, order.order, order.inverse)


def restore_tokens(sequence, order):
    """The inverse of :func:`permute_tokens`: every token back at its own place."""
    return _Permute.apply(sequence, order.inverse, order.order)


class _OrderByIndex(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens, index_offset, order, inverse, gradient):
        ctx.save_for_backward(inverse)
        ctx.released = gradient == 'released'
        ctx.offset_dtype = index_offset.dtype
        return _gather(tokens, order)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (inverse,) = ctx.saved_tensors
        grad_own = _gather(grad, inverse)
        grad_offset = (grad - grad_own if ctx.released else grad).mean(1, dtype=ctx.offset_dtype)
        return grad_own, grad_offset, None, None, None


def order_by_index(tokens, index_offset, order, gradient='paper'):
    """Bring tokens into a learned order, with a surrogate gradient for the offsets that made the order.

    Sorting has no useful gradient. With g the gradient of the sequence, (B, C, L), the offset of index k receives

    - ``'paper'``: the mean over channels of g[:, k];
    - ``'released'``: the mean over channels of g[:, k] - g_own[:, k], where g_own is g carried back to each token's
      own place.

    Args:
        tokens: (B, C, L).
        index_offset: (B, L), what was added to the reference indices before sorting; only its gradient matters here.
        order: the :class:`TokenOrder` that sorting gave, (B, L).
        gradient: 'paper' or 'released'.

    Returns:
        The sequence, (B, C, L), dtype of ``tokens``.

    Raises:
        ValueError: unknown ``gradient``.

    Source: DefMamba, section 3.3, index offset; 'released' as in the authors' implementation.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f'gradient must be one of {GRADIENTS}, got {gradient!r}')
    return _OrderByIndex.apply(tokens, index_offset, order.order, order.inverse, gradient)
