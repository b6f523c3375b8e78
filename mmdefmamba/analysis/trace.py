"""Traces of the blocks of a network on a batch of images: orders, points, and the numbers of the scans."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from ..models import DefMamba
from ..models.dssm import tokens_of_maps
from ..ops.precision import at_least_float32
from ..ops.reference_points import reference_points
from ..ops.tensors import distinct
from ..scans import SCANS
from ..scans.deformable import DeformableScan


@dataclass(frozen=True, eq=False)
class BlockTrace:
    """The trace of one block on one batch.

    All tensors are on the CPU. Floating point tensors have float32 or a wider dtype.

    Legend for shapes: B images, H and W the block's map, L = H * W, C channels, K scans, N states. Places are counted
    row by row. Every tensor with L is in the order of places, not in the order of a scan.

    Args:
        name: name of the block's DSSM in the model.
        stage, block: indices of stage and block, from 0, as in ``stages.1.0``.
        map_size: (H, W).
        scans: registered names of the K scans; a scan built with ``reverse=True`` has ``' reversed'`` added.
        orders: K tensors (B, L), int64: entry i is the place that is visited at step i.
        reference: the reference points, where tokens are read without an offset, (H, W, 2), (y, x) in the normalised
            coordinates of :func:`~mmdefmamba.ops.sample_points`: -1 and 1 are the centres of the first and last token.
        point_offset: the offset of the first deformable scan that learns points, (B, H, W, 2), or None if no scan does.
        maps: what each scan reads, K tensors (B, L, C). This and all below is None if the block was traced without its
            state space.
        delta: time steps after bias and softplus, (B, K, L, C).
        A: decay rates, (K, C, N).
        B: input weights, (B, K, L, N).
        C: output weights, (B, K, L, N).
    """

    name: str
    stage: int
    block: int
    map_size: tuple
    scans: tuple
    orders: tuple
    reference: torch.Tensor
    point_offset: torch.Tensor | None
    maps: tuple | None = None
    delta: torch.Tensor | None = None
    A: torch.Tensor | None = None
    B: torch.Tensor | None = None
    C: torch.Tensor | None = None

    @property
    def label(self):
        """The place of the block in its backbone, ``'stages.1.0'``."""
        return f'stages.{self.stage}.{self.block}'

    @property
    def points(self):
        """The points at which the deformable scan reads the map, (B, H, W, 2), or None if no scan learns points."""
        return None if self.point_offset is None else self.reference + self.point_offset

    @property
    def centre(self):
        """The (row, column) of the token in the middle of the map."""
        return tuple(side // 2 for side in self.map_size)

    def scan_index(self, scan=None):
        """Return the index of a scan.

        Args:
            scan: a name of ``scans``, or an index; None takes the first deformable scan, or else the first scan.

        Raises:
            ValueError: there is no such scan, or several scans have this name.
        """
        if scan is None:
            return self.scans.index('deformable') if 'deformable' in self.scans else 0
        found = [k for k, name in enumerate(self.scans) if scan in (k, name)]
        if len(found) != 1:
            raise ValueError(
                f'scan must be one of {list(self.scans)} or an index from 0 to {len(self.scans) - 1}, got {scan!r}'
                + (f', which is the name of {len(found)} scans: give the index' if found else '')
            )
        return found[0]

    def ranks(self, image=0, scan=None):
        """Return the step at which each place of an image is visited, (H, W), int64.

        Args:
            image: index of the image in the batch.
            scan: see :meth:`scan_index`.
        """
        return self.orders[self.scan_index(scan)][image].argsort().view(self.map_size)

    def select(self, images):
        """Return the trace of some images of the batch.

        Args:
            images: anything that indexes the first dimension of a tensor and keeps it, such as a slice or a list.
        """
        whole = {name: getattr(self, name) for name in ('point_offset', 'delta', 'B', 'C')}
        lists = {name: getattr(self, name) for name in ('orders', 'maps')}
        chosen = {name: None if x is None else x[images] for name, x in whole.items()}
        chosen |= {name: None if xs is None else tuple(x[images] for x in xs) for name, xs in lists.items()}
        return replace(self, **chosen)


@torch.no_grad()
def trace_blocks(model, *args, stages=None, blocks=None, state_space=True, **kwargs):
    """Call ``model(*args, **kwargs)`` and trace its blocks.

    This is not thread-safe: another call of the model at the same time is traced as well.

    Args:
        model: a :class:`~mmdefmamba.models.DefMamba`, or any module that contains one, such as a classifier.
        *args, **kwargs: arguments of the model.
        stages: an index or several indices of stages, negative ones count from the end; None traces all stages.
        blocks: indices of the blocks of each of these stages, in the same form.
        state_space: whether to keep maps, time steps, A, B and C for :func:`~mmdefmamba.analysis.activation_map`. These
            are K * L * (C + 2N) numbers per image and block, hundreds of MB per block in the first stage of a large
            image: choose stages, or pass False.

    Returns:
        The result of the model, and a list of :class:`BlockTrace` in the order of execution.

    Raises:
        ValueError: the model has no DefMamba, or does not have these stages or blocks.
    """
    hooks, traces = [], []
    try:
        formulation = find_backbone(model).formulation
        for place, dssm in _chosen_blocks(model, stages, blocks):
            hooks += _watch(dssm, place, formulation, state_space, traces)
        result = model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return result, traces


def find_backbone(model, required=True):
    """Return the first DefMamba in a model, which can be the model itself.

    Args:
        model: any module.
        required: whether a model without DefMamba is an error; with False the result is None then.

    Raises:
        ValueError: the model has no DefMamba and ``required`` is True.
    """
    for module in model.modules():
        if isinstance(module, DefMamba):
            return module
    if required:
        raise ValueError(f'{type(model).__name__} has no DefMamba backbone')
    return None


def image_channels(model):
    """Return the number of channels of the images that a model takes: that of its first 2-D convolution, or 3."""
    backbone = getattr(model, 'backbone', model)
    return next((module.in_channels for module in backbone.modules() if isinstance(module, torch.nn.Conv2d)), 3)


def _chosen_blocks(model, stages, blocks):
    """Return pairs of a block's place in the model and its DSSM, for the blocks that are traced."""
    backbone, chosen = find_backbone(model), []
    names = {module: name for name, module in model.named_modules()}
    for stage in _indices(stages, len(backbone.stages), 'stages', 'DefMamba'):
        for block in _indices(blocks, backbone.depths[stage], 'blocks', f'stage {stage}'):
            dssm = backbone.stages[stage][block].dssm
            chosen.append((dict(name=names[dssm], stage=stage, block=block), dssm))
    return chosen


def _indices(wanted, count, what, owner):
    if wanted is None:
        return range(count)
    wanted = (wanted,) if isinstance(wanted, int) else tuple(wanted)
    if any(not -count <= i < count for i in wanted):
        raise ValueError(f'{what} of {owner} must be from {-count} to {count - 1}, counted from 0, got {wanted}')
    return sorted({i % count for i in wanted})


def _watch(dssm, place, formulation, state_space, traces):
    """Register hooks that append a trace of ``dssm`` to ``traces`` after each call, and return them."""
    seen, raw_offsets = {}, {}

    def see_scan(scan, inputs, output):
        seen[scan] = output

    def see_offsets(network, inputs, raw):
        raw_offsets[network] = raw

    def see_dssm(module, inputs, output):
        traces.append(_trace(module, place, formulation, seen, raw_offsets, state_space))
        seen.clear()
        raw_offsets.clear()

    hooks = [scan.register_forward_hook(see_scan) for scan in dssm.scans]
    point_scan = _point_scan(dssm)
    if point_scan is not None:
        hooks.append(point_scan.offset_network.register_forward_hook(see_offsets))
    return [*hooks, dssm.register_forward_hook(see_dssm)]


def _point_scan(dssm):
    """Return the first deformable scan of a DSSM that learns points, or None."""
    return next((scan for scan in dssm.scans if isinstance(scan, DeformableScan) and scan.points), None)


def _trace(dssm, place, formulation, seen, raw_offsets, state_space):
    maps, orders = zip(*(seen[scan] for scan in dssm.scans), strict=True)
    batch, _, height, width = maps[0].shape
    deformable, point_offset = _point_scan(dssm), None
    if deformable is not None:
        point_offset = deformable.constrain(raw_offsets[deformable.offset_network])[0].cpu()
    dtype = at_least_float32(maps[0]).dtype
    return BlockTrace(
        **place,
        map_size=(height, width),
        scans=tuple(map(_scan_name, dssm.scans)),
        orders=tuple(_places(order, batch, height * width) for order in orders),
        reference=reference_points(height, width, formulation, dtype, 'cpu'),
        point_offset=point_offset,
        **(_state_space(dssm, maps) if state_space else {}),
    )


def _state_space(dssm, maps):
    tokens = tokens_of_maps(maps)
    delta, A, B, C = dssm.state_space_parameters(tokens)
    delta = F.softplus(at_least_float32(delta) + at_least_float32(dssm.dt_proj_bias).unsqueeze(1))
    found, reads = distinct(tokens)
    found = [at_least_float32(x).cpu() for x in found]
    return dict(
        maps=tuple(found[read] for read in reads),
        delta=delta.cpu(),
        A=A.unflatten(0, (len(maps), -1)).cpu(),
        B=at_least_float32(B).cpu(),
        C=at_least_float32(C).cpu(),
    )


def _places(order, batch, length):
    places = torch.arange(length) if order is None else order.order.cpu().long()
    return places.expand(batch, length).contiguous()


def _scan_name(scan):
    names = {cls: name for name, cls in SCANS.module_dict.items()}
    name = names.get(type(scan), type(scan).__name__)
    return f'{name} reversed' if getattr(scan, 'reverse', False) else name
