"""The parts that all scans share: the registry, the interface, and the cached orders of static scans."""

from dataclasses import dataclass

import torch
from mmengine.registry import Registry
from torch import nn

from ..names import unknown_name
from ..ops.tensors import any_is_free, decisions_about, is_exporting
from ..ops.token_order import TokenOrder, index_dtype

SCANS = Registry('scan', scope='mmdefmamba', locations=['mmdefmamba.scans'])

FORMULATIONS = ('paper', 'released')
# Orders that a scan keeps. Most trainings see a few map sizes, a multi-scale training a few dozen.
MAX_CACHED_ORDERS = 32


@dataclass(frozen=True)
class ScanContext:
    """The place of a scan in the network. Each scan gets it when it is built.

    Args:
        embed_dims: channels C of the maps that the scan reads.
        stage: index of its stage, from 0.
        map_size: (height, width) of the map of this stage, for images of the size used in pretraining.
        formulation: 'paper' or 'released', see :class:`mmdefmamba.models.DefMamba`.

    Raises:
        ValueError: the formulation is unknown.
    """

    embed_dims: int
    stage: int = 0
    map_size: tuple = (56, 56)
    formulation: str = 'paper'

    def __post_init__(self):
        if self.formulation not in FORMULATIONS:
            raise ValueError(f'formulation must be one of {FORMULATIONS}, got {self.formulation!r}')


class Scan(nn.Module):
    """Base class of scans: what a state space model reads of a map, and in which order.

    Args:
        context: a :class:`ScanContext`, or None if the scan does not use it.
    """

    #: How many times :meth:`forward` is given the map. If more than once, each of its readers has a view of its own, so
    #: that their gradients can be added up at once, see :func:`~mmdefmamba.ops.fan_out.fan_out`.
    readers = 1

    def __init__(self, context=None):
        super().__init__()
        self.context = context

    def forward(self, x):
        """Return what is read and in which order.

        Args:
            x: a map, (B, C, H, W).

        Returns:
            The map whose tokens are scanned, (B, C, H, W), which is ``x`` itself if the scan does not change it. And
            the :class:`~mmdefmamba.ops.TokenOrder` that visits its places, or None for row by row. Places are numbered
            row by row.
        """
        raise NotImplementedError


class StaticScan(Scan):
    """Base class of scans whose order depends only on the size of the map. A subclass defines :meth:`order`.

    Args:
        context: a :class:`ScanContext`, or None if the scan does not use it.
        reverse: visit the places of :meth:`order` backwards.
    """

    #: 1 if :meth:`order` is row by row for every size, -1 if it is row by row backwards, 0 if it is another one.
    row_major = 0
    #: whether :meth:`order` needs numbers as sizes: it cannot be part of a graph whose sizes are free. An exported
    #: graph has one size then, and torch.compile leaves its graph to call :meth:`order`.
    one_size = False

    def __init__(self, context=None, reverse=False):
        super().__init__(context)
        self.reverse = reverse
        self._cached_orders = {}

    def order(self, height, width):
        """Return the scan order of a map, int64 (height * width,): position i holds the place of the i-th token."""
        raise NotImplementedError

    @torch.compiler.assume_constant_result  # torch.compile takes the order of a map size as a constant
    def token_order(self, height, width, device):
        """Return the cached :class:`~mmdefmamba.ops.TokenOrder` of a map size on a device, or None for row by row.

        Raises:
            ValueError: :meth:`order` does not return a permutation.
        """
        key = (height, width, device)
        if key not in self._cached_orders:
            # Outside of inference mode: a tensor made there cannot be saved for the backward of a later training.
            # On the CPU: a caller's `with torch.device('meta')` must not make an order without numbers.
            with torch.inference_mode(False), torch.device('cpu'):
                order = self._checked_order(height, width, device)
            if len(self._cached_orders) >= MAX_CACHED_ORDERS:
                del self._cached_orders[next(iter(self._cached_orders))]
            self._cached_orders[key] = order
        return self._cached_orders[key]

    def _checked_order(self, height, width, device):
        order = self.order(height, width)
        order = order.clone() if order.is_inference() else order
        order = order.flip(0) if self.reverse else order
        row_major = torch.arange(height * width)
        if not torch.equal(order.sort().values, row_major):
            raise ValueError(
                f'{type(self).__name__}.order({height}, {width}) is not a permutation of 0..{height * width - 1}'
            )
        if torch.equal(order, row_major):
            return None
        backwards, inverse = torch.equal(order, row_major.flip(0)), TokenOrder.from_order(order).inverse
        # Complete from the start: what is computed later may be a tensor of inference mode or of a CUDA graph.
        return TokenOrder(*(x.to(device, index_dtype(device)) for x in (order, inverse)), backwards)

    def traced_order(self, height, width, device):
        """Return the :class:`~mmdefmamba.ops.TokenOrder` as part of a graph, for sizes that may be free.

        Nothing is cached and no value is looked at: both would make a constant of the order of one size.

        Raises:
            ValueError: a size of an exported graph is free, and :meth:`order` takes a decision that depends on it.
                torch.compile makes another graph for the other decision.
        """
        direction = -self.row_major if self.reverse else self.row_major
        if direction == 1:
            return None
        decisions = decisions_about(height, width)
        if decisions is not None and self.one_size:
            raise ValueError(self._not_for_any_size())
        order = self.order(height, width).to(device)
        if decisions_about(height, width) != decisions:  # a branch or a loop depended on a size
            raise ValueError(self._not_for_any_size())
        order = order.flip(0) if self.reverse else order
        return TokenOrder.from_order(order, backwards=direction == -1)

    def _not_for_any_size(self):
        return (
            f'the scan {scan_name(self)!r} cannot be exported for any size: its order is computed for one size at a '
            'time. Export the network for one size: tools/export.py ... --static --shape HEIGHT WIDTH'
        )

    def forward(self, x):
        size = x.shape[-2:]
        traced = is_exporting() or (torch.compiler.is_compiling() and not self.one_size and any_is_free(*size))
        order = self.traced_order if traced else self.token_order
        return x, order(*size, x.device)


def scan_name(scan):
    """Return the registered name of a scan, or the name of its class."""
    names = (name for name, kind in SCANS.module_dict.items() if kind is type(scan))
    return next(names, type(scan).__name__)


def build_scan(cfg, context):
    """Build one scan.

    Args:
        cfg: a registered name, or a dict with ``type`` and the arguments of the scan.
        context: the :class:`ScanContext` of its place in the network.

    Returns:
        The :class:`Scan`.

    Raises:
        ValueError: no scan is registered under this name; the message lists the registered scans.
    """
    cfg = dict(type=cfg) if isinstance(cfg, str) else dict(cfg)
    name = cfg.pop('type', None)
    scan = SCANS.module_dict.get(name)
    if scan is None:
        remedy = f'Registered scans: {", ".join(sorted(SCANS.module_dict))}'
        raise ValueError(unknown_name(f'unknown scan {name!r}', name, SCANS.module_dict, remedy))
    return scan(context=context, **cfg)
