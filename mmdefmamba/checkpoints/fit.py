"""Whether a checkpoint fits a module: one verdict, and one wording, for every place that loads weights."""

import copy
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import torch

from ..files import shorten, shown
from .contents import check_contents


class Fit(NamedTuple):
    """How the entries of a checkpoint fit a module.

    Attributes:
        total: number of parameters and buffers of the module.
        missing: names of the module that the checkpoint does not have.
        other_shape: names of the module that have another shape in the checkpoint, each with both shapes; or another
            kind of tensor that cannot be copied into the module's, such as a complex or a sparse one.
        unused: names in the checkpoint that the module does not have.
        errors: what the module's own loading hooks raised, as texts.
        tried: whether loading could be tried; if not, the module's own loading hooks are not part of the verdict.
    """

    total: int
    missing: list
    other_shape: list
    unused: list
    errors: list
    tried: bool = True

    @property
    def matched(self):
        """The number of parameters and buffers that the checkpoint fills."""
        return self.total - len(self.missing) - len(self.other_shape)

    @property
    def complete(self):
        """Whether the checkpoint fills every parameter and buffer."""
        return self.matched == self.total and not self.errors

    def describe(self, limit=5):
        """Return the verdict as text, with at most ``limit`` names of each kind."""
        kinds = [
            ('missing in the checkpoint', self.missing),
            ('with another shape there', self.other_shape),
            ('in the checkpoint but not in the model', self.unused),
        ]
        parts = [f'{len(names)} {kind}: {some(names, limit)}' for kind, names in kinds if names]
        parts += [shorten(error) for error in self.errors[:limit]]
        return '; '.join(parts) or 'it fits exactly'

    def __str__(self):
        return self.describe()


def state_dict_of(checkpoint, source, names=('state_dict', 'model')):
    """Return the weights in a loaded checkpoint file of MMEngine, of the authors' code, or of plain ``torch.save``.

    Args:
        checkpoint: what was saved.
        source: name of the file, for the error.
        names: the entries that may hold the weights; where there is no such entry, the checkpoint holds them itself.

    Returns:
        An OrderedDict of the same tensors by name, without the ``module.`` of DistributedDataParallel; with the
        ``_metadata`` that PyTorch keeps on a state dict, by which modules tell older versions of themselves.

    Raises:
        ValueError: the file has no weights, or :func:`~mmdefmamba.checkpoints.contents.check_contents` refuses it.
    """
    state = check_contents(checkpoint, source)
    if isinstance(checkpoint, Mapping):
        state = next((checkpoint[name] for name in names if name in checkpoint), checkpoint)
    if not isinstance(state, Mapping):
        raise ValueError(f'{shown(source)} must hold weights by name, but holds a {type(state).__name__}')
    return select(state, 'module.', keep_others=True)


def select(state, prefix, keep_others=False):
    """Return the entries of a state dict whose names start with a prefix, under the rest of their names.

    Args:
        state: a state dict; its ``_metadata`` is selected as well.
        prefix: such as ``'backbone.'``; '' takes all.
        keep_others: keep the other entries, too, under their own names.
    """

    def chosen(entries, prefix):
        return OrderedDict(
            (str(name).removeprefix(prefix), value)
            for name, value in entries.items()
            if keep_others or str(name).startswith(prefix)
        )

    selected = chosen(state, prefix)
    metadata = getattr(state, '_metadata', None)
    if metadata is not None:
        # its names are those of modules: 'backbone' for what is below 'backbone.'
        dotted = OrderedDict((f'{name}.', value) for name, value in metadata.items())
        selected._metadata = OrderedDict(
            (name.removesuffix('.'), value) for name, value in chosen(dotted, prefix).items()
        )
    return selected


def fit(module, state, hooks=True):
    """Compare a state dict with a module, as loading would go.

    Args:
        module: any module; it is not changed.
        state: a state dict, as :func:`state_dict_of` returns it.
        hooks: count what the module's own loading hooks mend, such as a position embedding that is resized, an entry
            that is renamed or one that they leave out. Without them names and shapes are compared as they are.

    Returns:
        A :class:`Fit`. MMEngine's rule applies: the counters ``num_batches_tracked`` may be missing, since checkpoints
        of old PyTorch releases have none.
    """
    own = {name: value for name, value in module.state_dict().items() if not name.endswith('num_batches_tracked')}
    shapes = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}
    other_shape = {name for name in own if name in shapes and shapes[name] != tuple(own[name].shape)}
    kinds = {name: kind for name in shapes if name in own and (kind := _other_kind(state[name], own[name]))}
    missing = {name for name in own if name not in shapes}
    unused = [name for name in state if name not in own and not name.endswith('num_batches_tracked')]
    errors, tried = [], True
    if hooks and not kinds and (other_shape or missing or unused):
        try:
            copied = _without_memory(module)
        except Exception as error:  # a module may hold anything, a lock for example, which cannot be copied
            errors, tried = [f'its loading hooks could not be tried: {type(error).__name__}: {error}'], False
        else:
            trial = _try_to_load(copied, state)
            if isinstance(trial, str):
                errors = [trial]
            else:
                missing, other_shape, unused = trial
    return Fit(
        len(own),
        [name for name in own if name in missing],
        [
            f'{name} {kinds.get(name) or shapes.get(name)} instead of {tuple(own[name].shape)}'
            for name in own
            if name in other_shape or name in kinds
        ],
        list(unused),
        errors,
        tried,
    )


def not_finite(module, state):
    """Return the parameters of a module that are NaN or infinite in a state dict: {name: number of such values}.

    Only entries in the parameter's own shape are read: a file can claim any shape for a single value.
    """
    return {
        name: count
        for name, own in module.named_parameters()
        if isinstance(value := state.get(name), torch.Tensor)
        and value.shape == own.shape
        and not _other_kind(value, own)
        and (count := _count_not_finite(value))
    }


def _count_not_finite(value):
    if not (value.is_floating_point() or value.is_complex()):
        return 0
    # types of 8 bits have no such test of their own
    value = value.float() if value.element_size() < 2 else value
    return value.numel() - int(value.isfinite().sum())


def _other_kind(value, own):
    """Return what kind of tensor an entry is that cannot be copied into a module's own, or ''."""
    if value.is_meta and not own.is_meta:
        return 'without values (a meta tensor)'
    if value.layout != own.layout or value.is_nested:
        return f'{str(value.layout).removeprefix("torch.")}, not dense' if not value.is_nested else 'nested'
    if value.is_quantized and not own.is_quantized:
        return 'quantized'
    if value.is_complex() and not own.is_complex():
        return str(value.dtype).removeprefix('torch.')
    return ''


def _try_to_load(module, state):
    """Load into a module without memory; return what was missing, of another shape and unused, or the error's text."""
    missing, unused, errors = [], [], []
    metadata = getattr(state, '_metadata', {})

    def load(part, entries, prefix=''):
        part._load_from_state_dict(entries, prefix, metadata.get(prefix[:-1], {}), True, missing, unused, errors)
        for name, child in part._modules.items():
            if child is not None:
                inner = f'{prefix}{name}.'
                load(child, {key: value for key, value in entries.items() if key.startswith(inner)}, inner)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # PyTorch warns of each parameter that is copied into no memory
            load(module, OrderedDict(state))
    except Exception as error:  # a loading hook is the code of any library
        return shorten(f'{type(error).__name__}: {error}')
    mismatched = {match[1] for match in map(re.compile(r'size mismatch for ([^:\s]+):').match, errors) if match}
    if len(mismatched) < len(errors):
        return shorten('; '.join(errors))
    missing = {name for name in missing if not name.endswith('num_batches_tracked')}
    return missing, mismatched, unused


def _without_memory(module):
    """Return a deep copy of a module whose parameters and buffers have shapes but no memory."""
    memo = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_like(tensor, device='meta')
        if isinstance(tensor, torch.nn.Parameter):
            empty = torch.nn.Parameter(empty, tensor.requires_grad)
        memo[id(tensor)] = empty
    return copy.deepcopy(module, memo)


def some(names, limit=5):
    """Return the first few of some names, and how many more there are; '' for an empty list."""
    names = list(names)
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(shorten(name, 200) for name in names[:limit]) + more
