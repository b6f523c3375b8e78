"""A checkpoint as others get it: its weights and what they mean, without the state of the training."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from ..compat.safe_loading import load_safely
from ..files import sha256_of, shown, unfinished_file
from ..tensor_files import SUFFIX, write_tensor_file
from .fit import state_dict_of

#: What stays of ``meta``. The rest has paths and names of the machine, such as the whole config.
PUBLIC_META = (
    *('dataset_meta', 'epoch', 'iter', 'mmengine_version', 'mmdefmamba_version'),
    *('arch', 'formulation', 'num_classes', 'ema', 'source', 'source_sha256'),
)


def publish(source, target, keep_ema=False):
    """Write the public form of a checkpoint. Its name gets the first 8 hex digits of its SHA-256.

    Args:
        source: path of the checkpoint.
        target: path of the file to write, ``.pth`` or ``.safetensors``; ``model.pth`` becomes ``model-0a1b2c3d.pth``.
        keep_ema: keep ``ema_state_dict`` as well. MMEngine's EMAHook saves the trained weights there, and the averaged
            ones as ``state_dict``.

    Returns:
        (path that was written, names of the entries that were left out).

    Raises:
        ValueError: the suffix is another one, or there can be no ``ema_state_dict``: the checkpoint has none, or the
            file is one of safetensors.
        pickle.UnpicklingError, RuntimeError, OSError, ImportError: as :func:`mmdefmamba.compat.load_safely`.
    """
    target = Path(target)
    if target.suffix not in ('.pth', SUFFIX):
        raise ValueError(f'the file to write must end in .pth or {SUFFIX}, got {shown(target)}')
    loaded = load_safely(source, 'cpu')
    state = state_dict_of(loaded, source)
    entries = loaded if isinstance(loaded, Mapping) and 'state_dict' in loaded else {}
    meta = entries.get('meta') or {}
    public = {'meta': {name: meta[name] for name in PUBLIC_META if name in meta}, 'state_dict': state}
    if keep_ema:
        if target.suffix == SUFFIX or 'ema_state_dict' not in entries:
            why = (
                'a file of safetensors holds one set of weights'
                if target.suffix == SUFFIX
                else f'{shown(source)} has none'
            )
            raise ValueError(f'ema_state_dict cannot be kept: {why}')
        public['ema_state_dict'] = entries['ema_state_dict']
    left_out = [name for name in entries if name not in public]
    left_out += [f'meta.{name}' for name in meta if name not in public['meta']]
    with unfinished_file(target) as part:
        if target.suffix == SUFFIX:
            write_tensor_file(part, state, public['meta'])
        else:
            torch.save(public, part)
        written = target.with_name(f'{target.stem}-{sha256_of(part)[:8]}{target.suffix}')
        os.replace(part, written)
    return written, left_out
