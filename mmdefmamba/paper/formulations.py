"""The paper's formulation and the released one: how far apart they are, point by point; and the record of the latter.

The five points are those of docs/fidelity.md. Nothing is computed here twice: the other formulation's own functions
are put in the place of the model's while it runs.
"""

import contextlib
import dataclasses
import itertools
from unittest import mock

import torch
import torch.nn.functional as F

from ..converters import convert_released, export_released, infer_network
from ..models import DefMamba
from ..ops.sequence_scan import use_backend
from ..scans import DeformableScan, ScanContext, deformable
from ..scans.offset_bias import OffsetBias

POINTS = ('reference points', 'offset range', 'displacement', 'bias table', 'index and gradient')
# Offsets, as shares of the allowed range, that stand for all of it: tanh reaches neither end.
SHARES = (-0.999, -0.5, 0.0, 0.5, 0.999)


@contextlib.contextmanager
def as_paper(model, points=POINTS):
    """Within the block a released model computes these of the five points as the paper has them.

    Weights stay: a 7 x 7 bias table is read as the paper's would be that holds it resized (bilinear,
    align_corners=False) to the stage's map at pretraining. Replaces functions for the whole process, for measuring.

    Args:
        model: a :class:`~mmdefmamba.models.DefMamba` with ``formulation='released'``.
        points: any of ``POINTS``.

    Raises:
        ValueError: another formulation, or a point that there is not.
    """
    if model.formulation != 'released':
        raise ValueError(f"the model must have formulation='released', got {model.formulation!r}")
    if unknown := set(points) - set(POINTS):
        raise ValueError(f'points must be among {POINTS}, got {sorted(unknown)}')
    scans = [scan for scan in model.modules() if isinstance(scan, DeformableScan)]
    with contextlib.ExitStack() as stack:

        def replace(owner, name, value):
            stack.enter_context(mock.patch.object(owner, name, value))

        if 'reference points' in points:
            replace(deformable, 'reference_points', _in_paper(deformable.reference_points))
        if 'offset range' in points:
            replace(DeformableScan, 'offsets', _paper_range(DeformableScan.offsets))
        if 'displacement' in points:
            replace(OffsetBias, 'forward', _paper_displacement(OffsetBias.forward))
        if 'index and gradient' in points:
            replace(deformable, 'reference_index', _in_paper(deformable.reference_index))
        for scan in scans:
            if 'bias table' in points and scan.offset_bias is not None:
                replace(scan.offset_bias, 'forward', _paper_table(scan))
            if 'index and gradient' in points:
                replace(scan, 'order_gradient', 'paper')
        yield


def _in_paper(function):
    def reference(*args):
        return function(*('paper' if arg == 'released' else arg for arg in args))

    return reference


def _paper_range(offsets):
    def scaled(scan, u):
        point_offset, index_offset = offsets(scan, u)
        if point_offset is not None:
            point_offset = point_offset * point_offset.new_tensor([max(size - 1, 1) / size for size in u.shape[-2:]])
        return point_offset, index_offset

    return scaled


def _paper_displacement(forward):
    def moved(bias, displacement):
        # given keys - (reference + offset), the offset is keys - reference less that
        place = (*displacement.shape[1:3], displacement.dtype, displacement.device)
        reference = deformable.reference_points(*place[:2], 'released', *place[2:])
        return forward(bias, deformable.bias_keys(*place) - reference - displacement)

    return moved


def _paper_table(scan):
    paper = OffsetBias(dataclasses.replace(scan.context, formulation='paper'))

    def read(displacement):
        table = scan.offset_bias.table.unsqueeze(0)
        table = F.interpolate(table, size=scan.context.map_size, mode='bilinear', align_corners=False)
        return torch.func.functional_call(paper, {'table': table[0]}, (displacement,))

    return read


def paper_twin(model):
    """A paper model with the weights of a released one; its bias tables are those resized, as in :func:`as_paper`."""
    size = next(scan.context.map_size for scan in model.modules() if isinstance(scan, DeformableScan))
    twin = DefMamba(
        {'embed_dims': model.embed_dims, 'depths': model.depths},
        formulation='paper',
        pretrain_img_size=tuple(4 * side for side in size),  # as far as the first stage can tell
        out_indices=model.out_indices,
    ).to(next(model.parameters()))
    weights = model.state_dict()
    for name, parameter in twin.state_dict().items():
        if name.endswith('offset_bias.table'):
            size = parameter.shape[1:]
            weights[name] = F.interpolate(weights[name][None], size=size, mode='bilinear', align_corners=False)[0]
    twin.load_state_dict(weights)
    return twin.train(model.training)


def parity(checkpoint, record, backend='auto', device='cpu', dtype=torch.float64, points=()):
    """Compare a converted network with what the released implementation was recorded to compute from the same file.

    Args:
        checkpoint: a classification file of the authors, as loaded.
        record: ``input``, ``logits``, ``feat0`` to ``feat3`` (each stage's map through an output norm of weight 1 and
            bias 0) and, of sum(logits * ``logit_weights``), ``grad.input`` and ``grad.<their name>`` of every
            parameter.
        backend: of the selective scan.
        device, dtype: where and in what to compute.
        points: those of ``POINTS`` that are computed as the paper has them, to see the comparison fail.

    Returns:
        For each entry of the record the largest absolute difference over the largest absolute value.
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
            # bound now: the loop goes on
            lambda block, args, out, i=i: found.update({f'feat{i}': F.layer_norm(out, out.shape[-1:]).movedim(-1, 1)})
        )
    images = record['input'].to(device, dtype, copy=True).requires_grad_()
    with use_backend(backend), as_paper(model, points):
        found['logits'] = head(model(images)[-1].mean((2, 3)))
        (found['logits'] * record['logit_weights'].to(found['logits'])).sum().backward()
    grads = {prefix + name: p.grad for prefix, part in parts.items() for name, p in part.named_parameters()}
    found |= {f'grad.{name}': grad for name, grad in export_released(grads).items()} | {'grad.input': images.grad}

    expected = {name: value.double() for name, value in record.items() if name not in ('input', 'logit_weights')}
    if lost := expected.keys() ^ found.keys():
        raise ValueError(f'the record and the network do not have the same entries: {sorted(lost)}')
    return {
        name: ((found[name].detach().cpu().double() - value).abs().max() / value.abs().max()).item()
        for name, value in expected.items()
    }


def distances(model, images):
    """How far a released model's outputs move when points are computed as the paper has them.

    Args:
        model: a released :class:`~mmdefmamba.models.DefMamba` with all stages in ``out_indices``, in eval mode.
        images: (B, 3, height, width).

    Returns:
        For each of ``POINTS`` alone, and 'all five', one number a stage: the L2 norm of the difference over that of
        the released map.
    """
    choices = {point: (point,) for point in POINTS} | {'all five': POINTS}
    with torch.no_grad():
        released = model(images)
        moved = {}
        for name, points in choices.items():
            with as_paper(model, points):
                moved[name] = [((b - a).norm() / a.norm()).item() for a, b in zip(released, model(images), strict=True)]
    return moved


def read_entries(size, stage=0, formulation='paper'):
    """Which entries of an offset bias table any offset can make a map of size x size read.

    Returns:
        A boolean mask over the table: size x size ('paper', pretrained at that size) or 7 x 7 ('released').
    """
    scan = DeformableScan(ScanContext(1, stage, (size, size), formulation))
    _over_all_offsets(scan, size, lambda sampled: sampled.sum().backward())
    return scan.offset_bias.table.grad[0] != 0


def lost_at_border(size, formulation='paper'):
    """How much of what a token reads lies outside a map of size x size, and is read as zero.

    Returns:
        Two maps (size, size), float64 in [0, 1]: without an offset, and with the worst possible one.
    """
    scan = DeformableScan(ScanContext(1, 0, (size, size), formulation), offset_bias=False).double()
    lost = []
    _over_all_offsets(scan, size, lambda sampled: lost.append(1 - sampled[0, 0].detach()))
    return lost[len(lost) // 2], torch.stack(lost).amax(0)


def _over_all_offsets(scan, size, visit):
    """Call ``visit`` with a map of ones, sampled at offsets from all over their range; no offset in the middle."""
    limit = size if scan.context.formulation == 'paper' else max(size - 1, 1)
    for share in itertools.product(SHARES, SHARES):
        offset = torch.tensor(share, dtype=torch.float64).div(limit).expand(1, size, size, 2)
        visit(scan.sample(torch.ones(1, 1, size, size, dtype=torch.float64), offset))
