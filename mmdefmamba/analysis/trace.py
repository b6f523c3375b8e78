"""What every block of a network did with a batch of images: orders, points, and the numbers of its scans."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from ..models import DefMamba
from ..models.dssm import tokens_of_maps
from ..ops.precision import at_least_float32
from ..ops.tensors import distinct
from ..scans import SCANS
from ..scans.deformable import DeformableScan, reference_points


@dataclass(frozen=True, eq=False)
class BlockTrace:
    """The K scans of one block on one batch; all tensors on the CPU, floating ones float32 or wider.

    Legend for shapes: B images, H and W the block's map, L = H * W, C channels, K scans, N states. Places are counted
    row by row; what belongs to a token stands at its place, not in the order of a scan.

    Args:
        name: of the block's DSSM in the model.
        stage, block: where it stands, both from 0, as in ``stages.1.0``.
        map_size: (H, W).
        scans: names of the K scans, as registered; ``' reversed'`` is added to one built with ``reverse=True``.
        orders: K tensors (B, L), int64: position i holds the place that is visited at step i.
        reference: where tokens look before any offset, (H, W, 2), (y, x) in the normalised coordinates of
            :func:`~mmdefmamba.ops.sample_points`: -1 and 1 are the centres of the first and last token.
        point_offset: what the first deformable scan adds to it, (B, H, W, 2), or None where none learns points.
        maps: what each scan reads, K tensors (B, L, C), or None where the state space was not asked for, as all below.
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
        """The block's place in its backbone, ``'stages.1.0'``."""
        return f'stages.{self.stage}.{self.block}'

    @property
    def points(self):
        """Where the deformable scan reads the map, (B, H, W, 2) as ``reference``, or None where none learns points."""
        return None if self.point_offset is None else self.reference + self.point_offset

    def scan_index(self, scan=None):
        """The index of a scan.

        Args:
            scan: a name of ``scans``, or an index; None takes the first deformable scan, or the first of all.

        Raises:
            ValueError: no such scan, or several of that name.
        """
        if scan is None:
            return self.scans.index('deformable') if 'deformable' in self.scans else 0
        found = [k for k, name in enumerate(self.scans) if scan in (k, name)]
        if len(found) != 1:
            raise ValueError(
                f'scan must be one of {list(self.scans)} or an index from 0 to {len(self.scans) - 1}, got {scan!r}'
                + (f', the name of {len(found)} scans: give the index' if found else '')
            )
        return found[0]

    def ranks(self, image=0, scan=None):
        """At which step each place of an image is visited, (H, W), int64.

        Args:
            image: index in the batch.
            scan: see :meth:`scan_index`.
        """
        return self.orders[self.scan_index(scan)][image].argsort().view(self.map_size)

    def select(self, images):
        """A trace of some images of the batch alone; ``images`` is whatever indexes the first dimension of a tensor."""
        whole = {name: getattr(self, name) for name in ('point_offset', 'delta', 'B', 'C')}
        lists = {name: getattr(self, name) for name in ('orders', 'maps')}
        chosen = {name: None if x is None else x[images] for name, x in whole.items()}
        chosen |= {name: None if xs is None else tuple(x[images] for x in xs) for name, xs in lists.items()}
        return replace(self, **chosen)


@torch.no_grad()
def trace_blocks(model, *args, stages=None, blocks=None, state_space=True, **kwargs):
    """Call ``model(*args, **kwargs)`` and note what each of its blocks did.

    Not thread-safe: whatever else runs the model meanwhile is noted as well.

    Args:
        model: a :class:`~mmdefmamba.models.DefMamba`, or any module that contains one: a classifier, a detector, ...
        stages: stages to note, an integer or several, negative ones from the last; None notes all.
        blocks: blocks to note of each of these stages, in the same way.
        state_space: whether to keep maps, time steps, A, B and C as well, for
            :func:`~mmdefmamba.analysis.activation_map`: K * L * (C + 2N) numbers an image and block, which for the
            first stage of a large image is hundreds of MB a block. Choose stages, or leave them out.
        *args, **kwargs: for the model.

    Returns:
        The model's result, and a list of :class:`BlockTrace` in the order of execution.

    Raises:
        ValueError: no DefMamba in the model; stages or blocks that it does not have.
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


def find_backbone(model):
    """The first DefMamba in a model, the model itself or a part of it.

    Raises:
        ValueError: there is none.
    """
    for module in model.modules():
        if isinstance(module, DefMamba):
            return module
    raise ValueError(f'{type(model).__name__} has no DefMamba backbone to look at')


def _chosen_blocks(model, stages, blocks):
    """What is to be noted: its place in the model, and the DSSM."""
    backbone, chosen = find_backbone(model), []
    names = {module: name for name, module in model.named_modules()}
    for stage in _indices(stages, len(backbone.depths), 'stages', 'DefMamba'):
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
    """Hooks that append a trace of ``dssm`` whenever it has run."""
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
    network = _point_network(dssm)
    if network is not None:
        hooks.append(network.offset_network.register_forward_hook(see_offsets))
    return [*hooks, dssm.register_forward_hook(see_dssm)]


def _point_network(dssm):
    """The first deformable scan of a DSSM that learns points, or None."""
    return next((scan for scan in dssm.scans if isinstance(scan, DeformableScan) and scan.points), None)


def _trace(dssm, place, formulation, seen, raw_offsets, state_space):
    maps, orders = zip(*(seen[scan] for scan in dssm.scans), strict=True)
    batch, _, height, width = maps[0].shape
    deformable, point_offset = _point_network(dssm), None
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
    places = torch.arange(length) if order is None else order.order.cpu()
    return places.expand(batch, length).contiguous()


def _scan_name(scan):
    names = {cls: name for name, cls in SCANS.module_dict.items()}
    name = names.get(type(scan), type(scan).__name__)
    return f'{name} reversed' if getattr(scan, 'reverse', False) else name
