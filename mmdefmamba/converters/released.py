"""Conversion of the authors' released checkpoints to the names of this package, and back.

The authors' classification files have ``model`` and, during training, ``model_ema``. Their detection and segmentation
files have a ``state_dict`` with ``backbone.`` before the same names, an output norm for each stage and no classifier.
The names of this package are those of mmpretrain's ``ImageClassifier`` and of all mmdet and mmseg models:
``backbone.*`` and ``head.fc.*``. Tensors are only renamed, never changed: both sides have the same layouts.

Source: names and shapes of the authors' implementation, https://github.com/leiyeliu/DefMamba.
"""

import contextlib
import os
import pickle
import re
import statistics
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import torch
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from ..checkpoints.fit import Fit, some
from ..compat import load_safely, trust_checkpoints
from ..files import AVERAGED, RELEASED, sha256_of, shown, split_checkpoint, unfinished_file
from ..models import ARCHITECTURES, DefMamba
from ..models.bias_tables import formulation_of_tables
from ..version import __version__

# Pairs (our name, their name) without a final `.weight` or `.bias`; {i} is a stage, {j} a block of it.
_BACKBONE = (
    ('stem.0.conv', 'patch_embed.0'),
    ('stem.0.norm', 'patch_embed.2'),
    ('stem.2.conv', 'patch_embed.5'),
    ('stem.2.norm', 'patch_embed.7'),
    ('downsamples.{i}.conv', 'layers.{i}.downsample.1'),
    ('downsamples.{i}.norm', 'layers.{i}.downsample.3'),
    *(
        (f'stages.{{i}}.{{j}}.{ours}', f'layers.{{i}}.blocks.{{j}}.{theirs}')
        for ours, theirs in (
            ('norm1', 'norm'),
            ('dssm.in_proj', 'op.in_proj'),
            ('dssm.conv', 'op.conv2d'),
            ('dssm.x_proj_weight', 'op.x_proj_weight'),
            ('dssm.dt_proj_weight', 'op.dt_projs_weight'),
            ('dssm.dt_proj_bias', 'op.dt_projs_bias'),
            ('dssm.A_log', 'op.A_logs'),
            ('dssm.D', 'op.Ds'),
            ('dssm.scans.2.offset_network.dwconv', 'op.DS.conv_offset.conv1'),
            ('dssm.scans.2.offset_network.channel_attention.fc1', 'op.DS.conv_offset.ca.0'),
            ('dssm.scans.2.offset_network.channel_attention.fc2', 'op.DS.conv_offset.ca.2'),
            ('dssm.scans.2.offset_network.norm', 'op.DS.conv_offset.ln'),
            ('dssm.scans.2.offset_network.proj', 'op.DS.conv_offset.conv2'),
            ('dssm.scans.2.offset_bias.table', 'op.DS.rpe_table'),
            ('dssm.out_proj', 'op.out_proj'),
            ('norm2', 'norm2'),
            ('ffn.0', 'mlp.fc1'),
            ('ffn.2', 'mlp.fc2'),
        )
    ),
)
_LISTED = 20  # how many names an error lists
_NUMBER = '(?:0|[1-9][0-9]*)'  # of a stage or block: neither 00 nor digits of other scripts


class Network(NamedTuple):
    """The network that the shapes in a checkpoint belong to.

    ``arch`` is 'tiny', 'small', 'base', or a dict of ``embed_dims`` and ``depths``; ``formulation`` 'paper' or
    'released'; ``num_classes`` None without a classification head.
    """

    arch: str | dict
    formulation: str
    num_classes: int | None


def convert_released(checkpoint, ema=False):
    """Rename the authors' parameters to the names of this package.

    Args:
        checkpoint: a loaded file or its state dict, of the authors' classification, detection or segmentation.
            ``module.`` before all names, from distributed training, is dropped.
        ema: take the averaged weights, ``model_ema``.

    Returns:
        A state dict with the same tensors. For a classification file: ``backbone.*`` and ``head.fc.*``, with the norm
        of the classifier as the output norm of the last stage. For a detection or segmentation file: all four output
        norms; names that do not begin with ``backbone.`` (neck and heads, mmdet's and mmseg's names) stay.

    Raises:
        ValueError: the file has no weights or is not a DefMamba, names are missing or left over, or shapes do not fit
            each other; lists all of them, under the names of the file.
    """
    weights = _weights(checkpoint, ema)
    if any(name.startswith('backbone.stages.') for name in weights):
        raise ValueError('these weights have the names of mmdefmamba already: load them as they are')
    stages = _num_stages(weights, rf'(?:backbone\.)?layers\.({_NUMBER})\.')
    if not stages:
        raise ValueError(
            f'not a checkpoint of a DefMamba: it has {len(weights)} parameters ({some(weights)}), and no name has the '
            "form of the authors' implementation, layers.<stage>.blocks.<block>.*"
        )
    names = _Names(any(name.startswith('backbone.') for name in weights), stages)
    converted = {names.ours(name): weight for name, weight in weights.items()}
    _check(weights, converted, names)
    return converted


def export_released(state_dict):
    """Rename parameters of this package to the authors' names, the inverse of :func:`convert_released`.

    Args:
        state_dict: of a classifier (``backbone.*`` with only the last output norm, and ``head.fc.*``), or of a detector
            or segmentor with all output norms, whose other parameters keep their names.

    Returns:
        A state dict with the same tensors for the authors' code. Save it as ``{'model': ...}`` (classification) or
        ``{'state_dict': ...}``.

    Raises:
        ValueError: the formulation is not 'released', the scans are others, or the authors' code has no name for a
            parameter.
    """
    network = infer_network(state_dict)
    if network.formulation != 'released':
        raise ValueError(
            f"the authors' code computes formulation='released', but these weights belong to {network.formulation!r}. "
            'It cannot load their offset bias tables'
        )
    stages = _num_stages(state_dict, rf'backbone\.stages\.({_NUMBER})\.')
    output_norms = {name.split('.')[1] for name in state_dict if re.match(r'backbone\.norm\d+\.', name)}
    classifier = network.num_classes is not None and output_norms <= {f'norm{stages - 1}'}
    names = _Names(not classifier, stages)
    exported = {names.theirs(name): weight for name, weight in state_dict.items()}
    if len(exported) < len(state_dict):
        raise ValueError(
            'some parameters are given twice, under the names of mmdefmamba and under those of the authors'
        )
    _check(exported, state_dict, names)
    return exported


def infer_network(state_dict):
    """Find arch, formulation and number of classes of a state dict with the names of this package.

    Args:
        state_dict: with ``backbone.*`` and perhaps ``head.fc.*``.

    Returns:
        A :class:`Network`. The formulation follows from the offset bias tables, see
        :func:`~mmdefmamba.models.bias_tables.formulation_of_tables`.

    Raises:
        ValueError: there is no DefMamba backbone, a stage or all offset bias tables are missing, or the tables belong
            to neither formulation.
    """
    embed_dims, depths = _sizes(state_dict)
    arch = {'embed_dims': embed_dims, 'depths': depths}
    arch = next((name for name, known in ARCHITECTURES.items() if known == arch), arch)
    tables, table = {}, rf'backbone\.stages\.({_NUMBER})\.{_NUMBER}\.dssm\.scans\.{_NUMBER}\.offset_bias\.table'
    for name, weight in state_dict.items():
        match = re.fullmatch(table, name)
        if match:
            tables.setdefault(int(match[1]), set()).add(tuple(weight.shape[1:]))
    if sorted(tables) != list(range(len(depths))) or any(len(sizes) > 1 for sizes in tables.values()):
        raise ValueError(
            f'cannot tell the formulation: each stage must have offset bias tables of one size, got {tables}'
        )
    sizes = [tables[stage].pop() for stage in range(len(depths))]
    formulation = formulation_of_tables(sizes) if all(len(size) == 2 for size in sizes) else None
    if formulation is None:
        raise ValueError(
            f"offset bias tables of sizes {sizes} belong to no formulation: 'released' has 7 x 7 in every stage; in "
            "'paper' each stage has half the size of the one before"
        )
    head = state_dict.get('head.fc.weight')
    return Network(arch, formulation, None if head is None else head.shape[:1].numel())


def convert_file(source, target, ema=False, trust=False):
    """Convert a file of the authors into a checkpoint for any OpenMMLab tool.

    Args:
        source: path of the authors' file.
        target: path of the checkpoint to write. An existing file is replaced only when the new one is complete.
        ema: take the averaged weights, ``model_ema``.
        trust: load everything that is pickled in the file. Its author can then run code here.

    Returns:
        The dict that was written, with ``state_dict`` and ``meta``: arch, formulation, num_classes, ema, name and
        sha256 of the source, and version of mmdefmamba.

    Raises:
        ValueError: ``target`` is ``source``, or :func:`convert_released` refuses the file.
        pickle.UnpicklingError: the file contains more than tensors and plain data, and is not trusted.
        OSError, RuntimeError: a file does not exist, is damaged, or cannot be written.
    """
    if os.path.realpath(source) == os.path.realpath(target):
        raise ValueError(f'{shown(target)} is the file to convert: give the converted file another name')
    with _authors_file(), trust_checkpoints(source) if trust else contextlib.nullcontext():
        state_dict = convert_released(load_safely(source, 'cpu'), ema)
    network = infer_network(state_dict)
    meta = network._asdict() | {
        'ema': ema,
        'source': os.path.basename(source),
        'source_sha256': sha256_of(source),
        'mmdefmamba_version': __version__,
    }
    checkpoint = {'meta': meta, 'state_dict': state_dict}
    with unfinished_file(target) as part:
        with open(part, 'xb') as file:
            torch.save(checkpoint, file)
        os.replace(part, target)
    return checkpoint


@CheckpointLoader.register_scheme(prefixes=RELEASED)
def load_from_released(filename, map_location=None):
    """Load a file of the authors wherever MMEngine takes a checkpoint: write ``released://`` before its path or URL.

    This works in ``init_cfg``, in ``load_from`` and on the command line of each tool. A file that is loaded without the
    scheme is not converted. ``?ema`` after the path or URL takes the averaged weights of a training file.
    (MMEngine's log line cuts ten letters, `load_from_`, off the name of this function.)

    Returns:
        A dict with ``meta`` (arch, formulation, num_classes, ema) and ``state_dict``.

    Raises:
        ValueError: :func:`convert_released` refuses the file, or it has no averaged weights.
    """
    source, _, ema = split_checkpoint(filename)
    with _authors_file():
        loaded = CheckpointLoader.load_checkpoint(source, map_location)
    state_dict = convert_released(loaded, ema)
    network = infer_network(state_dict)
    which = 'its averaged weights' if ema else 'its raw weights'
    if not ema and isinstance(loaded, Mapping) and 'model_ema' in loaded:
        which += f' ({RELEASED}...{AVERAGED} takes the averaged ones)'
    print_log(
        f"converted {shown(source)} from the authors' naming: arch {network.arch}, needs formulation='released', "
        f'{which}',
        logger='current',
    )
    return {'meta': network._asdict() | {'ema': ema}, 'state_dict': state_dict}


@contextlib.contextmanager
def _authors_file():
    """Read one of the authors' files; if it is refused, the error says what to do."""
    try:
        # the authors' training pickles its settings, a CfgNode, which is read as a plain dict
        with torch.serialization.safe_globals([(OrderedDict, 'yacs.config.CfgNode')]):
            yield
    except pickle.UnpicklingError as error:
        raise pickle.UnpicklingError(
            f"{error} In the authors' classification files the weights are under 'model': re-save that, or, trusting "
            'the file, convert it with `mmdefmamba convert-released --trust`.'
        ) from error


class _Names:
    """The names of both sides for one kind of file; a name that the other side does not know stays as it is."""

    def __init__(self, downstream, stages):
        prefix = 'backbone.' if downstream else ''
        pairs = [(f'backbone.{ours}', prefix + theirs) for ours, theirs in _BACKBONE]
        if downstream:
            pairs += [('backbone.norm{i}', 'backbone.outnorm{i}')]
        else:
            pairs += [(f'backbone.norm{stages - 1}', 'classifier.norm'), ('head.fc', 'classifier.head')]
        self.downstream = downstream
        self._to_ours = [(_pattern(theirs), ours + '{leaf}') for ours, theirs in pairs]
        self._to_theirs = [(_pattern(ours), theirs + '{leaf}') for ours, theirs in pairs]

    def ours(self, name):
        return self._renamed(name, self._to_ours)

    def theirs(self, name):
        return self._renamed(name, self._to_theirs)

    def others(self, name):
        """Return whether a name in one of the authors' files belongs to a neck or head: these keep their names."""
        return self.downstream and not re.match(r'(backbone|patch_embed|layers|outnorm\d+|classifier)\.', name)

    @staticmethod
    def _renamed(name, table):
        for pattern, template in table:
            match = pattern.fullmatch(name)
            if match:
                return template.format(**match.groupdict())
        return name


def _pattern(name):
    numbers = re.sub(r'\\{([ij])\\}', rf'(?P<\1>{_NUMBER})', re.escape(name))
    return re.compile(numbers + r'(?P<leaf>(?:\.weight|\.bias)?)')


def _weights(checkpoint, ema):
    """Return the state dict of a file, or the given state dict, without ``module.``."""
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f'a checkpoint must be a dict, got {type(checkpoint).__name__}')
    part = 'model_ema' if ema else next((part for part in ('model', 'state_dict') if part in checkpoint), None)
    if part is not None and part not in checkpoint:
        raise ValueError(f'no averaged weights, {part!r}, in a checkpoint of {some(checkpoint, _LISTED)}')
    weights = checkpoint if part is None else checkpoint[part]
    place = 'the checkpoint' if part is None else repr(part)
    if not isinstance(weights, Mapping):
        raise ValueError(f'{place} must hold a state dict, got {type(weights).__name__}')
    nameless = [repr(name) for name in weights if not isinstance(name, str)]
    if nameless:
        raise ValueError(f'{place} must hold tensors by name, got {some(nameless, _LISTED)} as names')
    odd = [name for name, weight in weights.items() if not isinstance(weight, torch.Tensor)]
    if odd or not weights:
        hint = "; weights are looked for in 'model', 'state_dict' and the checkpoint itself" if part is None else ''
        raise ValueError(f'{place} must hold tensors alone, got others in {some(odd, _LISTED) or "it: nothing"}{hint}')
    module = 'module.' if all(name.startswith('module.') for name in weights) else ''
    return {name.removeprefix(module): weight for name, weight in weights.items()}


def _num_stages(names, pattern):
    return 1 + max((int(match[1]) for match in map(re.compile(pattern).match, names) if match), default=-1)


def _sizes(state_dict):
    """Return embed_dims and depths, one number per stage each, of a state dict with the names of this package."""
    depths, dims, last = {}, {}, {}
    for name, weight in state_dict.items():
        match = re.match(rf'backbone\.stages\.({_NUMBER})\.({_NUMBER})\.(norm[12]\.)?', name)
        if match:
            stage, block = int(match[1]), int(match[2])
            if max(stage, block) >= len(state_dict):  # more than there are parameters: do not count up to it
                raise ValueError(f'not a DefMamba: {name} belongs to stage {stage}, block {block}')
            depths[stage] = max(depths.get(stage, 0), block + 1)
            last[stage] = name
            if match[3]:
                dims.setdefault(stage, []).append(weight.numel())
    stages = range(max(depths, default=0) + 1)
    if lost := [stage for stage in stages if stage not in dims]:
        found = f', while there is {last[max(last)]}' if last else ''
        raise ValueError(f'no norms of blocks in stage {lost}{found}: a whole stage is missing, or this is no DefMamba')
    # the most frequent width: a single parameter of another shape is then the one that is reported
    return tuple(statistics.mode(dims[stage]) for stage in stages), tuple(depths[stage] for stage in stages)


def _check(theirs, ours, names):
    """Compare a state dict, given under the names of both sides, with the released network; refuse any difference."""
    embed_dims, depths = _sizes(ours)
    last = len(depths) - 1
    with torch.device('meta'):  # names and shapes alone: no memory, and no random numbers drawn
        model = DefMamba(
            {'embed_dims': embed_dims, 'depths': depths},
            formulation='released',
            out_indices=range(last + 1) if names.downstream else last,
        )
    expected = {f'backbone.{name}': tuple(weight.shape) for name, weight in model.state_dict().items()}
    if not names.downstream:
        head = ours.get('head.fc.bias', ours.get('head.fc.weight'))
        classes = 0 if head is None else head.shape[:1].numel()
        expected |= {'head.fc.weight': (classes, embed_dims[-1]), 'head.fc.bias': (classes,)}
    expected = {names.theirs(name): shape for name, shape in expected.items()}
    found = {name: tuple(weight.shape) for name, weight in theirs.items() if not names.others(name)}
    verdict = Fit(
        total=len(expected),
        missing=[name for name in expected if name not in found],
        other_shape=[
            f'{name} {found[name]} instead of {shape}'
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ],
        unused=[name for name in found if name not in expected],
        errors=[f'{name} is {theirs[name].dtype}' for name in found if not theirs[name].is_floating_point()],
    )
    if not verdict.complete or verdict.unused:
        raise ValueError(
            f'not the parameters of a released DefMamba with embed_dims {embed_dims} and depths {depths}: '
            f'{verdict.describe(_LISTED)}'
        )
