"""Conversion of checkpoints between ``.pth`` and ``.safetensors``, bit for bit."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from ..checkpoints.fit import state_dict_of
from ..compat import load_safely
from ..files import shown, unfinished_file
from ..tensor_files import SUFFIX, write_tensor_file

_PLAIN = (str, int, float, bool, type(None))


def convert_format(source, target):
    """Write the weights of a checkpoint in the format that the suffix of ``target`` names.

    The weights are those of ``state_dict``: the averaged ones, if MMEngine's EMAHook saved the file. A training cannot
    be resumed from the new file, since the state of the optimizer and the log are left out.

    Args:
        source: path of a ``.pth`` or ``.safetensors`` file.
        target: path of the file to write, ``.safetensors`` or ``.pth``.

    Returns:
        (number of tensors, names of what was left out, such as 'optimizer' and 'meta.hook_msgs').

    Raises:
        ValueError: ``target`` is ``source``, has another suffix, or the file has no weights.
        pickle.UnpicklingError, RuntimeError, OSError, ImportError: as :func:`mmdefmamba.compat.load_safely`.
    """
    if os.path.realpath(source) == os.path.realpath(target):
        raise ValueError(f'{shown(target)} is the file to convert: give the converted file another name')
    suffix = Path(target).suffix
    if suffix not in (SUFFIX, '.pth'):
        raise ValueError(f'the file to write must end in {SUFFIX} or .pth, got {shown(target)}')
    loaded = load_safely(source, 'cpu')
    state = state_dict_of(loaded, source)
    meta = loaded.get('meta') if isinstance(loaded, Mapping) and 'state_dict' in loaded else None
    left_out = [name for name in loaded if name not in ('state_dict', 'meta')] if meta is not None else []
    kept = {}
    for name, value in (meta or {}).items():
        if suffix == '.pth' or _is_plain(value):
            kept[name] = value
        else:
            left_out.append(f'meta.{name}')
    with unfinished_file(target) as part:
        if suffix == SUFFIX:
            write_tensor_file(part, state, kept)
        else:
            with open(part, 'xb') as file:
                torch.save({'meta': kept, 'state_dict': state}, file)
        os.replace(part, target)
    return len(state), left_out


def _is_plain(value):
    """Return whether JSON has a value."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN) or (hasattr(value, 'tolist') and not isinstance(value, torch.Tensor))
