"""What the deformable scans of a network do on many images: how far points move and tokens change places."""

import torch

from .modes import evaluating
from .trace import find_backbone, trace_blocks

#: Bins of the histograms: along one axis of the point offset, and over the rank shift; odd, so that 0 is in a middle.
OFFSET_BINS, SHIFT_BINS = 41, 81
#: No point moves further along an axis, in tokens: it stays within its own token's cell.
OFFSET_LIMIT = 0.5
#: From where on an offset counts as being at its limit, as a share of it.
AT_LIMIT = 0.95


class BlockOffsets:
    """Statistics of one block's deformable scan, over all tokens of all images that were added.

    Lengths are in tokens: 1 is the distance of two neighbours on the block's map. The rank shift of a place is by how
    many steps the scan visits it later than the raster scan does, as a share of L - 1: from -1, where the raster's
    last comes first, to 1.

    Args:
        trace: a :class:`~mmdefmamba.analysis.BlockTrace` of the block, for its name; it is not added.
        formulation: of the network, see :class:`~mmdefmamba.models.DefMamba`.

    Attributes:
        name, stage, block, label: as in the trace.
        images, tokens: how many were added.
        offset_counts: (OFFSET_BINS, OFFSET_BINS), int64: tokens by (y, x) of their point offset, each from
            -OFFSET_LIMIT to OFFSET_LIMIT; None where the block learns no points.
        shift_counts: (SHIFT_BINS,), int64: tokens by rank shift, from -1 to 1.
    """

    def __init__(self, trace, formulation='paper'):
        self.name, self.stage, self.block, self.label = trace.name, trace.stage, trace.block, trace.label
        self.formulation = formulation
        self.images = self.tokens = 0
        has_points = trace.point_offset is not None
        self.offset_counts = torch.zeros(OFFSET_BINS, OFFSET_BINS, dtype=torch.int64) if has_points else None
        self.shift_counts = torch.zeros(SHIFT_BINS, dtype=torch.int64)
        self._sums = dict.fromkeys(('length', 'limit', 'variance', 'shift', 'moved'), 0.0)

    def add(self, trace, scan=None):
        """Add the images of a trace; ``scan`` names whose order, see :meth:`.BlockTrace.scan_index`."""
        order = trace.orders[trace.scan_index(scan)]
        steps = order.argsort(-1) - torch.arange(order.shape[1])
        shift = steps / max(order.shape[1] - 1, 1)
        self.images += len(order)
        self.tokens += order.numel()
        self.shift_counts += torch.histc(shift, SHIFT_BINS, -1, 1).long()
        self._sums['shift'] += float(shift.abs().double().sum())
        self._sums['moved'] += int((steps != 0).sum())
        if self.offset_counts is not None:
            self._add_points(trace.point_offset.double(), trace.map_size)

    def _add_points(self, offset, map_size):
        size = offset.new_tensor(map_size)
        divisor = (size - 1).clamp(min=1) if self.formulation == 'released' else size
        at_limit = (offset * divisor).abs().amax(-1) > AT_LIMIT
        tokens = (offset * (size - 1) / 2).flatten(1, 2)
        index = ((tokens / OFFSET_LIMIT + 1) / 2 * OFFSET_BINS).long().clamp(0, OFFSET_BINS - 1)
        flat = (index[..., 0] * OFFSET_BINS + index[..., 1]).flatten()
        self.offset_counts += flat.bincount(minlength=OFFSET_BINS**2).view(OFFSET_BINS, OFFSET_BINS)
        self._sums['length'] += float(tokens.norm(dim=-1).sum())
        self._sums['limit'] += int(at_limit.sum())
        self._sums['variance'] += float((tokens - tokens.mean(1, keepdim=True)).square().sum())

    @property
    def offset_length(self):
        """Mean length of the point offsets, in tokens; None without points, as the two that follow."""
        return self._points('length')

    @property
    def offset_at_limit(self):
        """Share of the tokens whose point has gone 95 % of the way to its limit along an axis, or further."""
        return self._points('limit')

    @property
    def offset_variation(self):
        """How much point offsets differ within an image: their root mean square distance from its mean, in tokens."""
        variance = self._points('variance')
        return None if variance is None else variance**0.5

    @property
    def shift(self):
        """Mean magnitude of the rank shift; a random order has one of 1/3."""
        return self._sums['shift'] / self.tokens

    @property
    def moved(self):
        """Share of the places that are not visited at the raster scan's step."""
        return self._sums['moved'] / self.tokens

    def _points(self, name):
        return None if self.offset_counts is None else self._sums[name] / self.tokens


def offset_statistics(model, images, stages=None, scan=None):
    """Run a model over images and gather what its deformable scans do.

    Args:
        model: as for :func:`~mmdefmamba.analysis.trace_blocks`; it runs in eval mode, and is left in the mode it had.
        images: preprocessed, one tensor (B, 3, height, width) or an iterable of them.
        stages: as for :func:`~mmdefmamba.analysis.trace_blocks`.
        scan: whose order is looked at, see :meth:`.BlockTrace.scan_index`.

    Returns:
        A list of :class:`BlockOffsets`, in order of the blocks.

    Raises:
        ValueError: no images, no DefMamba in the model, no such stage or scan.
    """
    backbone, found = find_backbone(model), {}
    with evaluating(model):
        for batch in [images] if isinstance(images, torch.Tensor) else images:
            _, traces = trace_blocks(backbone, batch, stages=stages, state_space=False)
            for trace in traces:
                statistics = found.setdefault(trace.label, BlockOffsets(trace, backbone.formulation))
                statistics.add(trace, scan)
    if not found:
        raise ValueError('there are no images to gather statistics of')
    return list(found.values())


def statistics_table(statistics):
    """Rows of a table, one a block, for :func:`~mmdefmamba.analysis.markdown.markdown_table`."""
    rows = [('block', 'offset, tokens', 'at its limit', 'varies by, tokens', 'rank shift', 'places moved')]
    for block in statistics:
        points = (block.offset_length, block.offset_at_limit, block.offset_variation)
        cells = ('-',) * 3 if None in points else (f'{points[0]:.3f}', f'{points[1]:.1%}', f'{points[2]:.3f}')
        rows.append((block.label, *cells, f'{block.shift:.1%}', f'{block.moved:.1%}'))
    return rows
