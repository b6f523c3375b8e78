"""The differences between the paper's formulation and the released one, measured point by point.

docs/fidelity.md describes the points. While a released model runs, some methods of its scans are replaced by those
of the paper's formulation. :func:`parity` compares a model with recorded outputs of the released code.
"""

import contextlib
import copy
import dataclasses
import itertools

import torch
import torch.nn.functional as F

from ..converters import convert_released, export_released, infer_network
from ..models import DefMamba
from ..ops import sample_points
from ..ops.reference_points import bias_keys, reference_points
from ..ops.sequence_scan import use_backend
from ..scans import DeformableScan, ScanContext
from ..scans.offset_bias import OffsetBias
from .instances import attributes_replaced

# The five points in which formulation='paper' and formulation='released' differ
POINTS = ('reference points', 'offset range', 'displacement', 'bias table', 'index and gradient')
# Three more, which both formulations compute as the authors' code does in float32: attributes of the scan and of its
# offset network. The last point is what float16 autocast does to the points that are read, beside the sort keys.
SWITCHES = {
    'sort keys in float16': (dict(key_dtype=torch.float16), {}),
    'GELU before LayerNorm': ({}, dict(norm_first=False)),
    'attention of the convolution': ({}, dict(attention_input='convolution')),
    'points in float16': (dict(point_dtype=torch.float16), {}),
}
# Offsets that represent the whole allowed range, as shares of it. tanh does not reach the ends.
SHARES = (-0.999, -0.5, 0.0, 0.5, 0.999)


@contextlib.contextmanager
def as_paper(model, points=POINTS):
    """Within the block a released model computes some of the five points of difference as the paper does.

    The weights stay the same. A 7 x 7 bias table is resized (bilinear, align_corners=False) to the stage's map at
    pretraining, and then read as the paper's formulation reads its table. Only the scans of this model change, and they
    are as before after the block, also on an error. The model must not run anywhere else meanwhile.

    Args:
        model: a :class:`~mmdefmamba.models.DefMamba` with ``formulation='released'``.
        points: any of ``POINTS``.

    Raises:
        ValueError: the model has another formulation, or a point is unknown.
    """
    if model.formulation != 'released':
        raise ValueError(f"the model must have formulation='released', got {model.formulation!r}")
    if unknown := set(points) - set(POINTS):
        raise ValueError(f'points must be among {POINTS}, got {sorted(unknown)}')
    with contextlib.ExitStack() as stack:
        for scan in _deformable_scans(model):
            stack.enter_context(attributes_replaced(scan, **_as_in_paper(scan, points)))
        yield


@contextlib.contextmanager
def switched(model, names):
    """Within the block the deformable scans of a model compute some of ``SWITCHES`` as their names say.

    Args:
        model: a :class:`~mmdefmamba.models.DefMamba`. It must not run anywhere else meanwhile.
        names: any of ``SWITCHES``.
    """
    with contextlib.ExitStack() as stack:
        for scan in _deformable_scans(model):
            for name in names:
                of_scan, of_network = SWITCHES[name]
                stack.enter_context(attributes_replaced(scan, **of_scan))
                if scan.offset_network is not None:
                    stack.enter_context(attributes_replaced(scan.offset_network, **of_network))
        yield


def _deformable_scans(model):
    return [module for module in model.modules() if isinstance(module, DeformableScan)]


def moved_tokens(model, images, names=('sort keys in float16',)):
    """Compare the learned orders of a model with those under some of ``SWITCHES``, in each block alone.

    Both orders of a block are computed from the same map, the one that the block reads without the switches.

    Args:
        model: a :class:`~mmdefmamba.models.DefMamba`.
        images: (B, 3, height, width).
        names: any of ``SWITCHES``.

    Returns:
        A list with (tokens, share of the tokens that have another rank, largest number of places that one moves) for
        each block, in the order of the network.
    """
    found, hooks = [], []

    def compare(scan, args, result):
        with switched(scan, names):
            other = scan.token_order(scan.offsets(args[0])[1])
        places = (other.inverse - result[1].inverse).abs()
        found.append((places.shape[-1], (places > 0).double().mean().item(), int(places.max())))

    try:
        hooks += [scan.register_forward_hook(compare) for scan in _deformable_scans(model) if scan.order]
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _as_in_paper(scan, points):
    """Return the attributes of a released scan that have to be replaced, ``{name: value}``."""
    paper = _paper_view(scan)
    replaced = {}
    if 'offset range' in points:
        replaced |= dict(constrain=paper.constrain)
    if 'index and gradient' in points:
        replaced |= dict(token_order=paper.token_order, order_gradient=paper.order_gradient)
    if {'reference points', 'displacement', 'bias table'} & set(points):
        replaced |= dict(sample=_mixed_sample(scan, points))
    return replaced


def _paper_view(scan):
    """Return a scan with the paper's formulation that shares its parameters and submodules with a released one."""
    paper = copy.copy(scan)
    paper.context = dataclasses.replace(scan.context, formulation='paper')
    paper.order_gradient = 'paper'
    return paper


def _mixed_sample(scan, points):
    """Return :meth:`.DeformableScan.sample` with these points as in the paper and all others as released."""
    reference_formulation = 'paper' if 'reference points' in points else 'released'
    read_bias = _paper_table(scan) if 'bias table' in points else scan.offset_bias

    def sample(u, point_offset):
        place = (point_offset.dtype, point_offset.device)
        locations = reference_points(*u.shape[-2:], reference_formulation, *place) + point_offset
        if scan.offset_bias is None:
            return sample_points(u, locations)
        displacement = point_offset if 'displacement' in points else bias_keys(*u.shape[-2:], *place) - locations
        return sample_points(u, locations, *read_bias(displacement))

    return sample


def _paper_table(scan):
    """Return a function that reads the resized table of a released scan as the paper's formulation reads its table."""
    if scan.offset_bias is None:
        return None
    with torch.device('meta'):  # the initial values of this table are never read
        paper = OffsetBias(dataclasses.replace(scan.context, formulation='paper'))

    def read(displacement):
        table = _resized(scan.offset_bias.table, scan.context.map_size)
        return torch.func.functional_call(paper, {'table': table}, (displacement,))

    return read


def _resized(table, size):
    """Resize a bias table (C, h, w) to (C, *size), as the released code does."""
    return F.interpolate(table[None], size=size, mode='bilinear', align_corners=False)[0]


def paper_twin(model):
    """Return a model of the paper's formulation with the weights of a released one.

    Its bias tables are the released tables, resized as in :func:`as_paper`.
    """
    size = next(scan.context.map_size for scan in model.modules() if isinstance(scan, DeformableScan))
    twin = DefMamba(
        {'embed_dims': model.embed_dims, 'depths': model.depths},
        formulation='paper',
        pretrain_img_size=tuple(4 * side for side in size),  # the exact size is unknown; this one gives the same maps
        out_indices=model.out_indices,
    ).to(next(model.parameters()))
    weights = model.state_dict()
    for name, parameter in twin.state_dict().items():
        if name.endswith('offset_bias.table'):
            weights[name] = _resized(weights[name], parameter.shape[1:])
    twin.load_state_dict(weights)
    return twin.train(model.training)


def parity(checkpoint, record, backend='auto', device='cpu', dtype=torch.float64, points=(), switches=()):
    """Compare a converted network with recorded outputs of the released code for the same checkpoint.

    Args:
        checkpoint: a classification checkpoint of the authors, as loaded.
        record: dict of tensors: ``input``; ``logits``; ``feat0`` to ``feat3``, each stage's map through an output norm
            of weight 1 and bias 0; and the gradients of sum(logits * ``logit_weights``): ``grad.input``, and
            ``grad.<name in the released code>`` of every parameter.
        backend: backend of the selective scan.
        device, dtype: device and dtype of the computation.
        points: those of ``POINTS`` that are computed as in the paper, to see the comparison fail.
        switches: those of ``SWITCHES`` that are on, likewise.

    Returns:
        dict with one number per entry of the record: the largest absolute difference divided by the largest absolute
        value.

    Raises:
        ValueError: the record and the network do not have the same entries.
    """
    weights = {name: weight.to(device, dtype) for name, weight in convert_released(checkpoint).items()}
    network = infer_network(weights)
    model = DefMamba(network.arch, formulation='released', out_indices=-1).to(device, dtype).eval()
    head = torch.nn.Linear(model.embed_dims[-1], network.num_classes, device=device, dtype=dtype)
    parts = {'backbone.': model, 'head.fc.': head}
    for prefix, part in parts.items():
        part.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})

    found = {}
    for i, stage in enumerate(model.stages):
        stage[-1].register_forward_hook(
            # ``i=i`` keeps the number of this stage
            lambda block, args, out, i=i: found.update({f'feat{i}': F.layer_norm(out, out.shape[-1:]).movedim(-1, 1)})
        )
    images = record['input'].to(device, dtype, copy=True).requires_grad_()
    with use_backend(backend), as_paper(model, points), switched(model, switches):
        found['logits'] = head(model(images)[-1].mean((2, 3)))
        (found['logits'] * record['logit_weights'].to(found['logits'])).sum().backward()
    grads = {prefix + name: p.grad for prefix, part in parts.items() for name, p in part.named_parameters()}
    found |= {f'grad.{name}': grad for name, grad in export_released(grads).items()} | {'grad.input': images.grad}

    expected = {name: value.double() for name, value in record.items() if name not in ('input', 'logit_weights')}
    if lost := expected.keys() ^ found.keys():
        raise ValueError(f'these entries are in the record or in the network, but not in both: {sorted(lost)}')
    return {
        name: ((found[name].detach().cpu().double() - value).abs().max() / value.abs().max()).item()
        for name, value in expected.items()
    }


def distances(model, images):
    """Measure how far the outputs of a released model move when points are computed as in the paper.

    Args:
        model: a released :class:`~mmdefmamba.models.DefMamba` with all stages in ``out_indices``, in eval mode.
        images: (B, 3, height, width).

    Returns:
        dict of each of ``POINTS`` alone, of 'all five', and of each of ``SWITCHES`` alone, to a list with one number
        per stage: the L2 norm of the difference divided by the L2 norm of the released map.
    """
    choices = {point: ((point,), ()) for point in POINTS} | {'all five': (POINTS, ())}
    choices |= {name: ((), (name,)) for name in SWITCHES}
    with torch.no_grad():
        released = model(images)
        moved = {}
        for name, (points, switches) in choices.items():
            with as_paper(model, points), switched(model, switches):
                moved[name] = [((b - a).norm() / a.norm()).item() for a, b in zip(released, model(images), strict=True)]
    return moved


def read_entries(size, stage=0, formulation='paper'):
    """Find the entries of an offset bias table that some offset makes a map of size x size read.

    Returns:
        A boolean mask over the table: size x size ('paper', pretrained at that size) or 7 x 7 ('released').
    """
    scan = DeformableScan(ScanContext(1, stage, (size, size), formulation))
    _over_all_offsets(scan, size, lambda sampled: sampled.sum().backward())
    return scan.offset_bias.table.grad[0] != 0


def lost_at_border(size, formulation='paper'):
    """Measure the share of a token's read that lies outside a map of size x size, where zeros are read.

    Returns:
        Two maps (size, size), float64 in [0, 1]: without an offset, and with the worst possible offset.
    """
    scan = DeformableScan(ScanContext(1, 0, (size, size), formulation), offset_bias=False).double()
    lost = []
    _over_all_offsets(scan, size, lambda sampled: lost.append(1 - sampled[0, 0].detach()))
    return lost[len(lost) // 2], torch.stack(lost).amax(0)


def _over_all_offsets(scan, size, visit):
    """Call ``visit`` with a sampled map of ones for each pair of ``SHARES``; the middle call is without an offset."""
    limit = size if scan.context.formulation == 'paper' else max(size - 1, 1)
    for share in itertools.product(SHARES, SHARES):
        offset = torch.tensor(share, dtype=torch.float64).div(limit).expand(1, size, size, 2)
        visit(scan.sample(torch.ones(1, 1, size, size, dtype=torch.float64), offset))
