"""Token orders: functions that bring tokens into an order and back, and the surrogate gradient of a learned order.

A token order is a permutation of L places. It is (L,) if all images share it, or (B, L) with one order per image.
"""

import torch

from .sequence_scan.exported import stable_argsort
from .sequence_scan.interface import prefers_triton
from .tensors import is_exporting
from .triton_maps import order_gradient_triton

GRADIENTS = ('paper', 'released')


class TokenOrder:
    """A permutation and its inverse, integers, each (L,) or (B, L).

    Step ``i`` of a scan visits place ``order[i]``; place ``j`` of the map is visited at step ``inverse[j]``.

    Args:
        order: the permutation, int64 or int32. The kernels for GPUs read int32, those for CPUs int64; each converts
            the other kind.
        inverse: its inverse, of the same dtype, or None: it is then computed when it is first read. The kernels that
            scan in any order never read it.
        backwards: true for the reversed row-major order: a kernel then computes the places instead of reading them.
        keys: the numbers that were sorted, (B, L). They are given only if :func:`~mmdefmamba.ops.multi_scan` is to
            give them a gradient.
    """

    def __init__(self, order, inverse=None, backwards=False, keys=None):
        self.order, self.backwards, self.keys = order, backwards, keys
        self._inverse = inverse

    @classmethod
    def from_order(cls, order, backwards=False):
        """Return the token order of a permutation, integers (L,) or (B, L). Other integers than int32 become int64.

        Raises:
            ValueError: the permutation does not hold integers.
        """
        if order.is_floating_point() or order.is_complex():
            raise ValueError(f'a permutation must hold integers, got {order.dtype}')
        return cls(order if order.dtype == torch.int32 else order.long(), backwards=backwards)

    @classmethod
    def from_keys(cls, keys, with_gradient=False):
        """Return the token order that sorts each row of keys in ascending order; equal keys stay in their order.

        On CUDA it is one sort, whose result is converted to int32.

        Args:
            keys: (B, L), floating.
            with_gradient: whether the token order has these ``keys``, so that they can get a gradient.
        """
        order = stable_argsort(keys.detach()).to(index_dtype(keys.device))
        return cls(order, keys=keys if with_gradient else None)

    @property
    def inverse(self):
        """The inverse of the permutation, in its shape and dtype."""
        if self._inverse is None:
            steps = torch.arange(self.order.shape[-1], dtype=self.order.dtype, device=self.order.device)
            self._inverse = torch.empty_like(self.order).scatter_(-1, self.order.long(), steps.expand_as(self.order))
        return self._inverse


def index_dtype(device):
    """Return the dtype in which the kernels of a device read a permutation: int32 on CUDA, int64 elsewhere.

    In an exported graph it is int64, as the standard operators want it.
    """
    on_gpu = torch.device(device).type == 'cuda' and not is_exporting()
    return torch.int32 if on_gpu else torch.int64


def _gather(tokens, index):
    """Return tokens (B, L, C) read at ``index``, (L,) or (B, L). The channels of a token are moved as one row."""
    if index.ndim == 1:
        return tokens.index_select(1, index)
    batch, length, channels = tokens.shape
    offset = torch.arange(batch, device=index.device).unsqueeze(1) * length
    rows = tokens.reshape(batch * length, channels).index_select(0, (index + offset).flatten())
    return rows.view(batch, length, channels)


class _Permute(torch.autograd.Function):
    """A permutation of tokens. Its gradient is a gather by the inverse: deterministic, without a scatter."""

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
        tokens: (B, L, C), any dtype.
        order: a :class:`TokenOrder` of (L,) or (B, L), or None for the row-major order, in which the tokens lie.

    Returns:
        The sequence, (B, L, C), dtype of ``tokens``.
    """
    return tokens if order is None else _Permute.apply(tokens, order.order, order.inverse)


def restore_tokens(sequence, order):
    """Undo :func:`permute_tokens`: bring each token back to its own place."""
    return sequence if order is None else _Permute.apply(sequence, order.inverse, order.order)


class _LearnedOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, index_offset, order, gradient):
        ctx.save_for_backward(order)
        ctx.released = gradient == 'released'
        ctx.offset_dtype = index_offset.dtype
        ctx.in_kernel = prefers_triton(x) and index_offset.dtype == torch.float32
        return x.view_as(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (order,) = ctx.saved_tensors
        if ctx.in_kernel:
            return grad, order_gradient_triton(grad.flatten(2).transpose(1, 2), order, ctx.released), None, None
        grad_place = grad.mean(1, dtype=ctx.offset_dtype).flatten(1)
        grad_offset = grad_place.gather(1, order.long())
        return grad, grad_offset - grad_place if ctx.released else grad_offset, None, None


def learned_order(x, index_offset, order, gradient='paper'):
    """Return a map unchanged, and give the offsets that made its order a surrogate gradient.

    Sorting has no useful gradient. Let g_i be the gradient that reaches the i-th token of the *scanned sequence*. Then
    the offset of index k receives

    - ``'paper'``: the mean over channels of g_k;
    - ``'released'``: the mean over channels of g_k - m_k, where m_k is the gradient of the token whose own place is k.

    Args:
        x: the map that is scanned, (B, C, H, W).
        index_offset: what was added to the reference indices before sorting, (B, H*W). It receives the gradient; its
            values are not used.
        order: the :class:`TokenOrder` that sorting gave, (B, H*W).
        gradient: 'paper' or 'released'.

    Returns:
        ``x``.

    Raises:
        ValueError: ``gradient`` is unknown.

    Source: DefMamba, section 3.3, index offset; 'released' as in the authors' implementation.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f'gradient must be one of {GRADIENTS}, got {gradient!r}')
    return _LearnedOrder.apply(x, index_offset, order.order, gradient)
