"""Pretrained weights for a DefMamba: ``init_cfg=dict(type='Pretrained', ...)``, with a report of what was loaded.

MMEngine's own initializer serves all other modules as it does without this package. For a DefMamba its silence would be
a trap: it goes on with random weights when no entry of the checkpoint has a place in the module.
"""

import logging

from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict

from ..files import shown
from .fit import fit, not_finite, select, some, state_dict_of


def load_pretrained(module, checkpoint, prefix=None, map_location='cpu'):
    """Load pretrained weights into a module and log which ones; refuse a checkpoint that has no weight for it.

    Args:
        module: the module; its own loading hooks see all entries under ``prefix``.
        checkpoint: path or URL of the file. None leaves the module as it is, so that a config can offer
            ``--cfg-options model.backbone.init_cfg.checkpoint=FILE`` and still train without one.
        prefix: take the entries with this prefix, such as ``'backbone.'``, and strip it; None takes all.
        map_location: as in :func:`torch.load`.

    Raises:
        ValueError: no entry fits the module by name and shape, or weights are NaN or infinite; or what a loading hook
            of the module raises, such as an offset bias table of the other formulation.

    Source: the arguments of MMEngine's ``Pretrained``.
    """
    name = type(module).__name__
    if checkpoint is None:
        print_log(f'{name} starts from random weights: its init_cfg names no checkpoint', logger='current')
        return
    loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location=map_location, logger='current')
    state = state_dict_of(loaded, checkpoint)
    entries = select(state, f'{prefix.rstrip(".")}.' if prefix else '')
    verdict = fit(module, entries)
    checkpoint = shown(checkpoint)
    if not verdict.matched:
        raise ValueError(
            f'{checkpoint} has no weight for {name}. The file has {len(state)} entries, such as {some(state)}. '
            f'{len(entries)} of them start with prefix={prefix!r}; {verdict}. Check prefix, arch and formulation. '
            "Convert a file of the authors' code first (tools/model_converters/convert_released.py)"
        )
    if broken := not_finite(module, entries):
        raise ValueError(
            f'{checkpoint} holds NaN or infinite values in {len(broken)} parameters of {name}, such as {some(broken)}: '
            'its training diverged. Use an earlier checkpoint'
        )
    load_state_dict(module, entries, strict=False, logger='silent')
    print_log(
        f'{name}: {verdict.matched} of {verdict.total} parameters and buffers loaded from {checkpoint}, '
        f'prefix {prefix!r}; {verdict}',
        logger='current',
        level=logging.WARNING if verdict.other_shape or verdict.errors else logging.INFO,
    )
