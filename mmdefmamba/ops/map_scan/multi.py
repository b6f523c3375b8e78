"""The multi-scan for callers: its contract, its checks, and the choice between kernels and plain PyTorch."""

import torch

from ..native import multi_scan_native
from ..precision import saturate, without_autocast
from ..sequence_scan.exported import selective_scan_exported
from ..sequence_scan.interface import check_kinds, choose_backend
from ..tensors import is_exporting
from ..token_order import TokenOrder
from ..triton_scan import multi_scan_triton
from .exported_maps import multi_scan_exported
from .plain import multi_scan_plain
from .swap_gradient import swap_gradient

#: The backends whose kernels read and write in the scans' orders themselves, and the scan of an exported graph.
MULTI_SCANS = {
    'native': multi_scan_native,
    'triton': multi_scan_triton,
    selective_scan_exported: multi_scan_exported,
}


def multi_scan(maps, delta, A, B, C, D, delta_bias, orders, *, backend='auto'):
    """Run a selective scan on each of K maps, each in its own order. Each result stays at the place of its token.

    Per map k and channel, step i visits place p = orders[k].order[i], with a state h of N numbers starting at zero::

        delta_p = softplus(delta_p + delta_bias)
        h = exp(delta_p * A) * h + delta_p * B_p * u_p
        y_p = <C_p, h> + D * u_p

    State and exponentials are computed in float32 or wider, under autocast too.

    Args:
        maps: K tensors u, (batch, L, channels), tokens in row-major order, any floating dtype. Scans that read the
            same map should be given the same tensor object, which saves memory.
        delta: time step before bias and softplus, (batch, K, L, channels). This tensor and those below may have any
            strides.
        A: decay rates, negative, (K*channels, N).
        B: input weights, (batch, K, L, N).
        C: output weights, (batch, K, L, N).
        D: weight of the skip, (K*channels,).
        delta_bias: (K*channels,).
        orders: K entries. Each is a :class:`~mmdefmamba.ops.TokenOrder` of (L,) or (batch, L), or None for row by row.
            If an order has ``keys``, they get the gradient of :func:`.swap_gradient.swap_gradient`.
        backend: see :func:`~mmdefmamba.ops.selective_scan`. 'native' and 'triton' read and write in the scans'
            orders themselves. For any other backend the tokens are brought into order and back.

    Returns:
        y, (batch, K, L, channels), dtype of the maps. In float16 an overflow becomes 65504, not infinity.

    Raises:
        ValueError: the shapes do not fit each other, or the backend is unknown.
        TypeError: a tensor is not floating point, or some tensors are float64 and others are not.
        RuntimeError: the named backend cannot run here; the message says why.

    Source: DefMamba, section 3.2. There the tokens are reordered before and after the scans; here the scans do it.
    """
    _check(maps, delta, A, B, C, D, delta_bias, orders)
    function = MULTI_SCANS.get(choose_backend(backend, maps[0], A.shape[1]))
    if function is not None:
        with without_autocast(maps[0].device.type):
            y = saturate(function(maps, delta, A, B, C, D, delta_bias, orders))
    else:
        y = multi_scan_plain(maps, delta, A, B, C, D, delta_bias, orders, backend)
    if not torch.is_grad_enabled() or is_exporting() or all(order is None or order.keys is None for order in orders):
        return y
    return _with_order_gradients(y, maps, delta, A, B, C, delta_bias, orders)


def _with_order_gradients(y, maps, delta, A, B, C, delta_bias, orders):
    results = []
    for k, (u, order) in enumerate(zip(maps, orders, strict=True)):
        result, channels = y[:, k], slice(k * u.shape[2], (k + 1) * u.shape[2])
        if order is not None and order.keys is not None:
            inputs = (u, delta[:, k], A[channels], B[:, k], C[:, k], delta_bias[channels])
            result = swap_gradient(result, *inputs, order)
        results.append(result)
    return torch.stack(results, dim=1)


def _check(maps, delta, A, B, C, D, delta_bias, orders):
    check_maps(maps, A, D, delta_bias, orders, delta=delta, B=B, C=C)
    batch, length, channels = maps[0].shape
    expected = (batch, len(maps), length)
    for name, x, last in (('delta', delta, channels), ('B', B, A.shape[-1]), ('C', C, A.shape[-1])):
        if tuple(x.shape) != (*expected, last):
            raise ValueError(f'{name} must be {(*expected, last)} to fit {len(maps)} maps, got {tuple(x.shape)}')


def check_maps(maps, A, D, delta_bias, orders, **others):
    """Check what every multi-scan takes: the maps, the parameters per channel and the orders, and kinds of the others.

    Raises:
        ValueError: the shapes do not fit each other.
        TypeError: a tensor is not floating point, or some tensors are float64 and others are not.
    """
    if not maps or len(orders) != len(maps):
        raise ValueError(
            f'there must be at least one map and one order per map, got {len(maps)} maps and {len(orders)} orders'
        )
    if maps[0].ndim != 3 or 0 in maps[0].shape:
        raise ValueError(f'maps must be (batch, L, channels), all of them at least 1, got {tuple(maps[0].shape)}')
    batch, length, channels = maps[0].shape
    for u in maps:
        if u.shape != maps[0].shape or u.dtype != maps[0].dtype:
            raise ValueError(f'maps must share shape and dtype, got {[(tuple(u.shape), str(u.dtype)) for u in maps]}')
    check_kinds({'maps': maps[0], 'A': A, 'D': D, 'delta_bias': delta_bias, **others})
    rows = len(maps) * channels
    if A.ndim != 2 or len(A) != rows or 0 in A.shape or tuple(D.shape) != (rows,) or tuple(delta_bias.shape) != (rows,):
        raise ValueError(
            f'A must be ({rows}, N), D and delta_bias ({rows},) to fit {len(maps)} maps of {channels} channels, got '
            f'{tuple(A.shape)}, {tuple(D.shape)} and {tuple(delta_bias.shape)}'
        )
    for order in orders:
        if order is not None and not isinstance(order, TokenOrder):
            raise ValueError(
                f'an order must be a TokenOrder or None, got a {type(order).__name__}: TokenOrder.from_order(...) '
                'makes one of a permutation'
            )
        if order is not None and order.order.dtype not in (torch.int64, torch.int32):
            raise ValueError(f'an order must hold integers of 64 or 32 bits, got {order.order.dtype}')
        if order is not None and tuple(order.order.shape) not in ((length,), (batch, length)):
            raise ValueError(
                f'an order must be {(length,)} or {(batch, length)} to fit the maps, got {tuple(order.order.shape)}'
            )
