"""Files of safetensors: weights by name, with the ``meta`` of a checkpoint as JSON in the header.

The package safetensors is optional. Its files cannot contain code.
"""

import json
from collections.abc import Mapping

import torch

from .files import shown

SUFFIX = '.safetensors'
MAX_HEADER = 100 * 2**20  # bytes; the limit of safetensors itself
_KEY = 'meta'  # of the header's texts


def is_tensor_file(path):
    """Return whether a file begins as safetensors files do: the length of a header, then a JSON object."""
    with open(path, 'rb') as file:
        head = file.read(9)
    return len(head) == 9 and 2 <= int.from_bytes(head[:8], 'little') <= MAX_HEADER and head[8:] == b'{'


def read_tensor_file(path, map_location=None):
    """Read a file of safetensors as a checkpoint.

    Args:
        path: path of the file.
        map_location: a device or its name; None is the CPU. Anything else keeps the tensors on the CPU.

    Returns:
        A dict with ``state_dict`` and ``meta``; ``meta`` is empty where the header has none.

    Raises:
        ImportError: safetensors is not installed.
        ValueError: the header's ``meta`` is no JSON object.
        safetensors.SafetensorError: the file is damaged.
    """
    safetensors = _library()
    with safetensors.safe_open(path, framework='pt', device='cpu') as file:
        text = (file.metadata() or {}).get(_KEY)
        # copies: the tensors of the library are views of one memory, which torch.save refuses
        state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if isinstance(map_location, (str, torch.device)):
        state = {name: tensor.to(map_location) for name, tensor in state.items()}
    try:
        meta = {} if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'the header entry {_KEY!r} of {shown(path)} is no JSON: {error}') from error
    if not isinstance(meta, Mapping):
        raise ValueError(
            f'the header entry {_KEY!r} of {shown(path)} must be a JSON object, got a {type(meta).__name__}'
        )
    return {'meta': meta, 'state_dict': state}


def write_tensor_file(path, state, meta=None):
    """Write weights as a file of safetensors; see :func:`mmdefmamba.files.unfinished_file` for one that is replaced.

    Args:
        path: path of the file.
        state: tensors by name. Tensors that share memory are written once each.
        meta: a dict; it must be plain data. Tuples become lists.

    Raises:
        ImportError: safetensors is not installed.
        TypeError: ``meta`` holds something that JSON does not have, or an entry of ``state`` is no tensor.
    """
    _library()
    from safetensors.torch import save_file

    odd = [name for name, tensor in state.items() if not isinstance(tensor, torch.Tensor)]
    if odd:
        raise TypeError(f'a file of safetensors holds tensors alone, got {type(state[odd[0]]).__name__} as {odd[0]!r}')
    header = {'format': 'pt'} | ({_KEY: json.dumps(meta, default=_plain)} if meta else {})
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()
    }
    save_file(copies, path, header)


def _plain(value):
    if hasattr(value, 'tolist'):  # of NumPy
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f'meta holds a {type(value).__name__}, which JSON does not have')


def _library():
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            f'{error}: files of safetensors need the package. Install it with pip install safetensors'
        ) from error
    return safetensors
