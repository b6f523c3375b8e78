"""What every scan has in common: the registry, the interface, and the cached orders of all static scans."""

from dataclasses import dataclass

import torch
from mmengine.registry import Registry
from torch import nn

from ..names import unknown_name
from ..ops.token_order import TokenOrder

SCANS = Registry('scan', scope='mmdefmamba')

FORMULATIONS = ('paper', 'released')
# Orders kept per scan; a training run sees few sizes, a multi-scale one a few dozen.
MAX_CACHED_ORDERS = 32


@dataclass(frozen=True)
class ScanContext:
    """Where in the network a scan stands; given to each scan when it is built.

    Args:
        embed_dims: channels C of the maps it will see.
        stage: index of its stage, from 0.
        map_size: (height, width) of that stage's map at the size that the network is pretrained with.
        formulation: 'paper' or 'released', see :class:`mmdefmamba.models.DefMamba`.
    """

    embed_dims: int
    stage: int = 0
    map_size: tuple = (56, 56)
    formulation: str = 'paper'

    def __post_init__(self):
        if self.formulation not in FORMULATIONS:
            raise ValueError(f'formulation must be one of {FORMULATIONS}, got {self.formulation!r}')


class Scan(nn.Module):
    """What a state space model is to read of a map, and in which order.

    Args:
        context: a :class:`ScanContext`, or None where the scan does not care.
    """

    def __init__(self, context=None):
        super().__init__()
        self.context = context

    def forward(self, x):
        """Say what to read and in which order.

        Args:
            x: a map, (B, C, H, W).

        Returns:
            The map whose tokens are scanned, (B, C, H, W), ``x`` itself where nothing changes it; and the
            :class:`~mmdefmamba.ops.TokenOrder` that visits its places, counted row by row, or None for row by row.
        """
        raise NotImplementedError


class StaticScan(Scan):
    """A scan whose order depends on the map's size alone. A subclass says its :meth:`order`, no more.

    Args:
        context: a :class:`ScanContext`, or None where the scan does not care.
        reverse: visit the places of :meth:`order` backwards.
    """

    def __init__(self, context=None, reverse=False):
        super().__init__(context)
        self.reverse = reverse
        self._cached_orders = {}

    def order(self, height, width):
        """The scan order of a map: int64 (height * width,), position i holds the index of the i-th token's place."""
        raise NotImplementedError

    @torch.compiler.assume_constant_result  # torch.compile takes the order of a size as it finds it
    def token_order(self, height, width, device):
        """The cached :class:`~mmdefmamba.ops.TokenOrder` of a map size on a device, None for row by row.

        Raises:
            ValueError: :meth:`order` does not return a permutation.
        """
        key = (height, width, device)
        if key not in self._cached_orders:
            # A tensor that is made in inference mode cannot be saved for a backward, and a training may come later.
            with torch.inference_mode(False):
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
        return TokenOrder.from_order(order.to(device), backwards=torch.equal(order, row_major.flip(0)))

    def forward(self, x):
        return x, self.token_order(*x.shape[-2:], x.device)


def build_scan(cfg, context):
    """Build one scan.

    Args:
        cfg: a registered name, or a dict with ``type`` and the scan's own arguments.
        context: the :class:`ScanContext` of its place in the network.

    Raises:
        ValueError: a name that no scan is registered under; the message lists those that are.
    """
    cfg = dict(type=cfg) if isinstance(cfg, str) else dict(cfg)
    name = cfg.pop('type', None)
    scan = SCANS.module_dict.get(name)
    if scan is None:
        remedy = f'Registered scans: {", ".join(sorted(SCANS.module_dict))}'
        raise ValueError(unknown_name(f'unknown scan {name!r}', name, SCANS.module_dict, remedy))
    return scan(context=context, **cfg)
