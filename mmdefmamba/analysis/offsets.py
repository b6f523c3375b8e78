"""Statistics of the deformable scans over many images: how far points move and tokens change places."""

import torch

from .modes import evaluating
from .trace import find_backbone, trace_blocks

#: Number of bins per axis of the point offset, and of the rank shift; odd, so that 0 is in the middle of a bin.
OFFSET_BINS, SHIFT_BINS = 41, 81
#: Largest point offset along an axis, in tokens: a point stays within the cell of its token.
OFFSET_LIMIT = 0.5
#: An offset counts as being at its limit above this share of the limit.
AT_LIMIT = 0.95


class BlockOffsets:
    """Statistics of one block's deformable scan, over all tokens of all images that were added.

    Lengths are in tokens: 1 is the distance between two neighbours on the block's map. The rank shift of a place is the
    number of steps by which the scan visits it later than the raster scan does, divided by L - 1. It is -1 if the scan
    visits the last place of the raster scan first.

    Args:
        trace: a :class:`~mmdefmamba.analysis.BlockTrace` of the block, which gives the names; it is not added.
        formulation: formulation of the network, see :class:`~mmdefmamba.models.DefMamba`.

    Attributes:
        name, stage, block, label: as in the trace.
        images, tokens: numbers of images and tokens that were added.
        offset_counts: (OFFSET_BINS, OFFSET_BINS), int64: number of tokens by (y, x) of their point offset, each from
            -OFFSET_LIMIT to OFFSET_LIMIT; None if the block does not learn points.
        shift_counts: (SHIFT_BINS,), int64: number of tokens by rank shift, from -1 to 1.
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
        """Add the images of a trace.

        Args:
            trace: the :class:`~mmdefmamba.analysis.BlockTrace`.
            scan: the scan whose order is added, see :meth:`.BlockTrace.scan_index`.
        """
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
        """Mean length of the point offsets, in tokens; None if the block does not learn points."""
        return self._points('length')

    @property
    def offset_at_limit(self):
        """Share of the tokens whose point has moved more than 95 % of the way to its limit along an axis, or None."""
        return self._points('limit')

    @property
    def offset_variation(self):
        """Root mean square distance of the point offsets from the mean of their image, in tokens, or None."""
        variance = self._points('variance')
        return None if variance is None else variance**0.5

    @property
    def shift(self):
        """Mean magnitude of the rank shift; it is 1/3 for a random order."""
        return self._sums['shift'] / self.tokens

    @property
    def moved(self):
        """Share of the places that are visited at another step than in the raster scan."""
        return self._sums['moved'] / self.tokens

    def _points(self, name):
        return None if self.offset_counts is None else self._sums[name] / self.tokens


def offset_statistics(model, images, stages=None, scan=None):
    """Run a model over images and collect statistics of its deformable scans.

    Args:
        model: as for :func:`~mmdefmamba.analysis.trace_blocks`; it runs in eval mode and keeps its own mode.
        images: preprocessed images, one tensor (B, 3, height, width) or an iterable of such tensors.
        stages: as for :func:`~mmdefmamba.analysis.trace_blocks`.
        scan: the scan whose order is taken, see :meth:`.BlockTrace.scan_index`.

    Returns:
        A list with one :class:`BlockOffsets` per block, in the order of the blocks.

    Raises:
        ValueError: there are no images, the model has no DefMamba, or it does not have this stage or scan.
    """
    backbone, found = find_backbone(model), {}
    with evaluating(model):
        for batch in [images] if isinstance(images, torch.Tensor) else images:
            _, traces = trace_blocks(backbone, batch, stages=stages, state_space=False)
            for trace in traces:
                statistics = found.setdefault(trace.label, BlockOffsets(trace, backbone.formulation))
                statistics.add(trace, scan)
    if not found:
        raise ValueError('there are no images: offset statistics need at least one')
    return list(found.values())


def statistics_table(statistics):
    """Return a header and one row per block, for :func:`~mmdefmamba.analysis.markdown.markdown_table`."""
    rows = [('block', 'offset, tokens', 'at its limit', 'varies by, tokens', 'rank shift', 'places moved')]
    for block in statistics:
        points = (block.offset_length, block.offset_at_limit, block.offset_variation)
        cells = ('-',) * 3 if None in points else (f'{points[0]:.3f}', f'{points[1]:.1%}', f'{points[2]:.3f}')
        rows.append((block.label, *cells, f'{block.shift:.1%}', f'{block.moved:.1%}'))
    return rows
