"""Pretrained weights for a DefMamba: ``init_cfg=dict(type='Pretrained', ...)``, with a report of what was loaded.

MMEngine's own initializer serves all other modules as it does without this package. For a DefMamba its silence would be
a trap: it goes on with random weights when no entry of the checkpoint has a place in the module.
"""

import logging
import re
from collections.abc import Mapping

from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict

from ..files import shown
from .fit import fit, not_finite, select, some, state_dict_of

WEIGHTS = ('raw', 'ema')
OUTPUT_NORMS = ('classifier', 'fresh')


def load_pretrained(module, checkpoint, prefix=None, map_location='cpu', weights=None, output_norms='classifier'):
    """Load pretrained weights into a module and log which ones; refuse a checkpoint that has no weight for it.

    Args:
        module: the module; its own loading hooks see all entries under ``prefix``.
        checkpoint: path or URL of the file. None leaves the module as it is, so that a config can offer
            ``--cfg-options model.backbone.init_cfg.checkpoint=FILE`` and still train without one.
        prefix: take the entries with this prefix, such as ``'backbone.'``, and strip it; None takes all.
        map_location: as in :func:`torch.load`.
        weights: which weights of a checkpoint that was trained with MMEngine's EMAHook: 'ema', the averages, or 'raw',
            those before averaging. None takes ``state_dict``, which are the averages. In a checkpoint without
            averages, 'raw' takes ``state_dict`` as well. A file of the authors: ``released://FILE`` are its raw
            weights, ``released://FILE?ema`` its averages, whatever is given here.
        output_norms: 'classifier' loads the output norms that the checkpoint has: a classifier's norm is that of the
            last stage. 'fresh' loads none, so that all of them start with weight 1 and bias 0.

    Raises:
        ValueError: no entry fits the module by name and shape, or weights are NaN or infinite; ``weights`` or
            ``output_norms`` is unknown; the checkpoint has no averages; or what a loading hook of the module raises,
            such as an offset bias table of the other formulation.

    Source: the arguments of MMEngine's ``Pretrained``.
    """
    name = type(module).__name__
    for argument, value, known in (
        ('weights', weights, (None, *WEIGHTS)),
        ('output_norms', output_norms, OUTPUT_NORMS),
    ):
        if value not in known:
            raise ValueError(f'{argument} must be one of {known}, got {value!r}')
    if checkpoint is None:
        print_log(f'{name} starts from random weights: its init_cfg names no checkpoint', logger='current')
        return
    loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location=map_location, logger='current')
    state, chosen = chosen_weights(loaded, checkpoint, weights)
    entries = select(state, f'{prefix.rstrip(".")}.' if prefix else '')
    if output_norms == 'fresh':
        norms = [key for key in entries if re.match(r'norm\d+\.', key)]
        for key in norms:
            del entries[key]
        chosen += f"; output_norms='fresh': {some(norms) or 'none in the file'} left out"
    verdict = fit(module, entries)
    if not verdict.matched:
        raise ValueError(
            f'{shown(checkpoint)} has no weight for {name}. The file has {len(state)} entries, such as {some(state)}. '
            f'{len(entries)} of them start with prefix={prefix!r}; {verdict}. Check prefix, arch and formulation. '
            "Convert a file of the authors' code first (mmdefmamba convert-released)"
        )
    if broken := not_finite(module, entries):
        raise ValueError(
            f'{shown(checkpoint)} holds NaN or infinite values in {len(broken)} parameters of {name}, such as '
            f'{some(broken)}: its training diverged. Use an earlier checkpoint'
        )
    load_state_dict(module, entries, strict=False, logger='silent')
    if hasattr(module, '_params_init_info'):
        update_init_info(module, init_info=f'Pretrained: loaded from {shown(checkpoint)}')
    print_log(
        f'{name}: {verdict.matched} of {verdict.total} parameters and buffers loaded from {shown(checkpoint)}, '
        f'prefix {prefix!r}{chosen}; {verdict}',
        logger='current',
        level=logging.WARNING if verdict.other_shape or verdict.errors else logging.INFO,
    )


def chosen_weights(loaded, source, weights=None):
    """Return the raw or the averaged weights in a loaded checkpoint, and which ones they are, for the log.

    MMEngine's EMAHook saves the averages as ``state_dict``, and the weights before averaging as ``ema_state_dict``,
    with ``module.`` before their names.

    Args:
        loaded: what was saved.
        source: name of the file, for the error.
        weights: None, 'raw' or 'ema', as in :func:`load_pretrained`.

    Raises:
        ValueError: 'ema' is asked for, and there are no averages; or the file has no weights.
    """
    averaged = isinstance(loaded, Mapping) and 'ema_state_dict' in loaded
    if weights == 'ema' and not averaged and not str(source).endswith('?ema'):
        raise ValueError(
            f"weights='ema': {shown(source)} has no averaged weights (ema_state_dict). Leave weights out, or write "
            '?ema after '
            'the path of a file of the authors: released://FILE?ema'
        )
    if weights == 'raw' and averaged:
        return state_dict_of(loaded, source, ('ema_state_dict',)), ', its weights before averaging'
    return state_dict_of(loaded, source), ', its averaged weights' if averaged else ''
