"""What a checkpoint file may hold beside its weights: types, lengths, depth and size, checked in one place.

A file can come from a stranger. Its ``meta`` is read as names of classes, colours and numbers of epochs. A value of
another kind would end in an error that does not name the file, or in a loop without an end.
"""

import numbers
from collections.abc import Mapping

import numpy as np
import torch

from ..files import shown

#: Limits of ``meta``. MMEngine's own has a depth of 5 and, with the 21,841 classes of ImageNet, 110,000 values.
MAX_DEPTH, MAX_VALUES, MAX_TEXT = 20, 1_000_000, 64 * 2**20
MAX_NAME = 1000  # characters in the name of a class
_TEXTS = ('experiment_name', 'mmengine_version', 'time')
_COUNTS = ('epoch', 'iter')
_PARTS = {'message_hub': Mapping, 'optimizer': Mapping, 'ema_state_dict': Mapping, 'param_schedulers': (Mapping, list)}


def check_contents(checkpoint, source):
    """Check what a checkpoint holds beside its weights.

    Args:
        checkpoint: what the file held. Only a dict has anything to check.
        source: path or URL of the file, for the errors.

    Returns:
        ``checkpoint``, unchanged.

    Raises:
        ValueError: an entry has a type, a length, a depth or a size that it cannot have. Names the file and the entry.
    """
    if not isinstance(checkpoint, Mapping):
        return checkpoint
    for name, kinds in _PARTS.items():
        _require(checkpoint.get(name), kinds, name, source)
    meta = checkpoint.get('meta')
    if meta is None:
        return checkpoint
    _require(meta, Mapping, 'meta', source)
    _check_size(meta, source)
    for name in _COUNTS:
        value = meta.get(name)
        if value is not None and (not _is_integer(value) or value < 0):
            _refuse(source, f'meta.{name}', 'a whole number from 0', value)
    for name in _TEXTS:
        _require(meta.get(name), str, f'meta.{name}', source)
    _require(meta.get('cfg'), (str, Mapping), 'meta.cfg', source)
    data = meta.get('dataset_meta')
    _require(data, Mapping, 'meta.dataset_meta', source)
    # before MMEngine the names were in meta itself
    for place, part in (('meta', meta), ('meta.dataset_meta', data or {})):
        for key, value in part.items():
            if value is not None and str(key).lower() == 'classes':
                _check_classes(value, f'{place}.{key}', source)
            elif value is not None and str(key).lower() == 'palette':
                _check_palette(value, f'{place}.{key}', source)
    return checkpoint


def check_training_state(checkpoint, source):
    """Check that a checkpoint holds what MMEngine needs to resume a training.

    Raises:
        ValueError: an entry is missing. Names the file and the entries.
    """
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    missing = [f'meta.{name}' for name in _COUNTS if meta.get(name) is None]
    hub = checkpoint.get('message_hub') if isinstance(checkpoint, Mapping) else None
    hub = hub if isinstance(hub, Mapping) else {}
    for name in ('log_scalars', 'runtime_info', 'resumed_keys'):
        if not isinstance(hub.get(name), Mapping):
            missing.append(f'message_hub.{name}')
    if missing:
        raise ValueError(
            f'{shown(source)} cannot be resumed: it has no {", ".join(missing)}, which a training saves. To start from '
            'its weights alone, set load_from to this file and leave out resume'
        )


def _check_size(meta, source):
    """Walk through ``meta`` without recursion. A part that occurs twice counts twice, as it would when it is copied."""
    values = texts = 0
    # the length of this list is the depth
    walks = [iter([meta])]
    while walks:
        try:
            value = next(walks[-1])
        except StopIteration:
            walks.pop()
            continue
        values += 1
        if isinstance(value, (str, bytes)):
            texts += len(value)
        elif isinstance(value, (np.ndarray, torch.Tensor)):
            values += int(np.prod(value.shape, dtype=float))
        elif isinstance(value, Mapping):
            walks.append(iter([part for pair in value.items() for part in pair]))
        elif isinstance(value, (list, tuple, set, frozenset)):
            walks.append(iter(value))
        if len(walks) - 1 > MAX_DEPTH or values > MAX_VALUES or texts > MAX_TEXT:
            raise ValueError(
                f"{shown(source)} is refused: its 'meta' is deeper than {MAX_DEPTH} levels, has more than "
                f'{MAX_VALUES:,} values or more than {MAX_TEXT // 2**20} MiB of text. {_REMEDY}'
            )


def _check_classes(value, place, source):
    if not _is_list(value):
        _refuse(source, place, 'a list of names', value)
    for number, name in enumerate(value):
        if not isinstance(name, str) and not _is_integer(name):
            _refuse(source, f'{place}[{number}]', 'a name', name)
        if isinstance(name, str) and len(name) > MAX_NAME:
            _refuse(source, f'{place}[{number}]', f'a name of at most {MAX_NAME} characters', name)


def _check_palette(value, place, source):
    if isinstance(value, str):  # mmdet's visualizer knows palettes by name
        return
    if not _is_list(value):
        _refuse(source, place, 'a list of colours', value)
    for number, colour in enumerate(value):
        whole = _is_list(colour) and len(colour) in (3, 4)
        if not whole or not all(_is_integer(part) and 0 <= part <= 255 for part in colour):
            _refuse(source, f'{place}[{number}]', 'a colour: three whole numbers from 0 to 255', colour)


def _is_list(value):
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _is_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))


def _require(value, kinds, place, source):
    if value is not None and not isinstance(value, kinds):
        names = [kind.__name__.replace('Mapping', 'dict') for kind in (kinds if isinstance(kinds, tuple) else (kinds,))]
        _refuse(source, place, f'a {" or a ".join(names)}', value)


_REMEDY = (
    "The weights alone can be kept: torch.save({'state_dict': torch.load(FILE, weights_only=True)['state_dict']}, NEW)"
)


def _refuse(source, place, wanted, value):
    raise ValueError(f'{shown(source)} is refused: {place} must be {wanted}, got {brief(value)}. {_REMEDY}')


def brief(value, limit=60):
    """Return a value in a few words: its type, and its text where that is short and has no parts."""
    kind = type(value).__name__
    if isinstance(value, (str, bytes)):
        return f'the {kind} {shown(repr(value[:limit]))}' + (f' and {len(value) - limit} more' * (len(value) > limit))
    if isinstance(value, (bool, float, complex)) or (isinstance(value, int) and value.bit_length() < 200):
        return f'the {kind} {value!r}'
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return f'a {kind} of {len(value)}'
    return f'a {kind}'
