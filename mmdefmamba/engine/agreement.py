"""Whether all processes of a distributed run are about to do the same.

PyTorch adds up the gradients of processes that train different networks, on different data, from different checkpoints,
and no error says so.
"""

import importlib.metadata
import itertools
import logging
import os
import platform
import zlib
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from ..checkpoints.resuming import fingerprint
from ..config_tree import dicts_in, values_in
from ..files import shown, split_checkpoint
from ..model_wrappers import plain_model
from ..version import __version__

# Keys of the config in which machines may differ: where files are, and what --resume has found there.
_PLACES = {'filename', 'launcher', 'load_from', 'resume', 'work_dir'}
_PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmsegmentation', 'numpy')


def plan(cfg):
    """Return what a process is about to do, as a dict of texts: checkpoint, other weights, config, versions.

    Args:
        cfg: an MMEngine Config, after ``--resume`` has found its checkpoint.

    Raises:
        OSError: a file with weights cannot be read.
    """
    weights = {'starts from': _file(cfg.get('load_from'), 'resumes' if cfg.get('resume') else 'loads')}
    for path, node in dicts_in(cfg.get('model') or {}, ('model',)):
        if str(node.get('type', '')).rpartition('.')[2] == 'Pretrained':
            weights['.'.join(map(str, path))] = _file(node.get('checkpoint'), 'loads')
    return dict(
        weights,
        config={place: _text(value) for place, value in values_in(cfg.to_dict()) if place not in _PLACES},
        versions=versions(),
    )


def versions():
    """Return the versions of this package, of PyTorch and of OpenMMLab's libraries, and a checksum of this code."""
    found = {'mmdefmamba': f'{__version__} (code {_code()})', 'python': '.'.join(platform.python_version_tuple()[:2])}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = 'missing'
    return found


def check_plans(records):
    """Compare what the processes are about to do.

    Args:
        records: of all ranks, with ``host`` and ``plan``; or ``error`` in its place, a text.

    Returns:
        Differences that are allowed, as texts: paths that are other ones on other machines.

    Raises:
        ValueError: a process cannot start, or does something else than rank 0; says which one, with both values.
    """
    failed = [f'rank {rank} on {one["host"]}: {one["error"]}' for rank, one in enumerate(records) if one.get('error')]
    if failed:
        raise ValueError(f'{len(failed)} of {len(records)} processes cannot start. {" | ".join(failed[:4])}')
    plans, hosts = [one['plan'] for one in records], [one['host'] for one in records]
    for key in sorted({key for one in plans for key in one} - {'config', 'versions'}):
        _compare(f'{key}: the processes do not agree', [one.get(key, 'no such key') for one in plans], hosts, _RESUME)
    notes = []
    for kind in ('versions', 'config'):
        for key in sorted({key for one in plans for key in one[kind]}):
            values = [one[kind].get(key, 'no such key') for one in plans]
            if len(set(values)) > 1 and kind == 'config' and all(_is_path(value) for value in values):
                notes.append(f'{key} is {_shown(values, hosts)}')
                continue
            remedy = 'Start the same line, with the same files, on all machines'
            _compare(f'{key}: the processes have different {kind}', values, hosts, remedy)
    return notes


_RESUME = (
    'All processes must start from the same file. Is the work dir on a file system that all machines share? If it is '
    'not, copy the checkpoint to all machines and give its path: --resume CHECKPOINT'
)


def _compare(what, values, hosts, remedy):
    if len(set(values)) > 1:
        raise ValueError(f'{what}. {_shown(values, hosts)}. {remedy}')


def _shown(values, hosts):
    ranks = defaultdict(list)
    for rank, value in enumerate(values):
        ranks[str(value)].append(rank)
    groups = []
    for value, members in ranks.items():
        some = ', '.join(map(str, members[:8])) + (', ...' if len(members) > 8 else '')
        where = ', '.join(dict.fromkeys(hosts[rank] for rank in members))
        groups.append(f'rank{"s" if len(members) > 1 else ""} {some} on {where}: {shown(value[:300])}')
    return '; '.join(groups)


def _file(path, verb):
    if path is None:
        return 'no checkpoint' if verb == 'resumes' else 'no file: a new start'
    source, _, averaged = split_checkpoint(path)
    if '://' in source:
        return f'{verb} {shown(path)}'
    local = Path(source).expanduser()
    return f'{verb} {shown(local.name)}, content {fingerprint(local)}' + (', averages' if averaged else '')


def _text(value):
    return value if isinstance(value, str) else repr(value) if not callable(value) else value.__qualname__


def _is_path(value):
    return os.sep in value


@lru_cache
def _code():
    digest = 0
    for path in sorted(Path(__file__).parents[1].rglob('*.py')):
        digest = zlib.crc32(path.read_bytes(), digest)
    return f'{digest:08x}'


@HOOKS.register_module()
class AgreementHook(Hook):
    """Compare, before the first step, what the processes of a distributed run have loaded and are about to train.

    It compares checksums of the parameters and buffers, of their averages (EMA) and of the optimizer, the iteration,
    the seed, and the lengths of the data.

    Raises:
        ValueError: they differ; says which process has what.
    """

    priority = 'VERY_LOW'  # after the hooks that load and change something

    def before_train(self, runner):
        if get_world_size() == 1:
            return
        records = all_gather_object((os.uname().nodename, state_of(runner)))
        hosts, states = [host for host, _ in records], [state for _, state in records]
        for key in states[0]:
            values = [state.get(key) for state in states]
            _compare(f'{key}: the processes differ before the first step', values, hosts, _RESUME)


def state_of(runner):
    """Return what must be equal in all processes before the first step, as a dict."""
    loop, model = runner.train_loop, runner.model
    found = dict(
        iteration=runner.iter,
        epoch=runner.epoch,
        seed=runner.seed,
        training_images=_length(runner.train_dataloader.dataset),
        batches=_length(runner.train_dataloader),
        iterations=loop.max_iters,
    )
    if runner.val_loop is not None:
        found['validation_images'] = _length(runner.val_dataloader.dataset)
    if not _is_sharded(model):
        # buffers differ where each process has its own statistics, but not after loading
        found['parameters_and_buffers'] = checksum(plain_model(model).state_dict())
        found['optimizer'] = checksum(runner.optim_wrapper.state_dict())
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                found['averaged parameters (EMA)'] = checksum(hook.ema_model.state_dict())
    return found


def checksum(state):
    """Return a checksum of all tensors and numbers in nested dicts and lists, as a text of 8 digits."""
    digest = 0
    for path, value in _values(state):
        if isinstance(value, torch.Tensor):
            data = value.detach().cpu().contiguous()
            content = data.reshape(-1).view(torch.uint8).numpy() if data.numel() else b''
        else:
            content = repr(value).encode()
        digest = zlib.crc32(content, zlib.crc32(path.encode(), digest))
    return f'{digest:08x}'


def _values(node, path=''):
    if isinstance(node, dict):
        return itertools.chain.from_iterable(_values(value, f'{path}.{key}') for key, value in node.items())
    if isinstance(node, (list, tuple)):
        return itertools.chain.from_iterable(_values(value, f'{path}.{i}') for i, value in enumerate(node))
    return [(path, node)] if isinstance(node, (torch.Tensor, int, float, str, bool)) else []


def _length(sized):
    return len(sized) if hasattr(sized, '__len__') else None


def _is_sharded(model):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return any(isinstance(module, FullyShardedDataParallel) for module in model.modules()) or any(
        type(parameter).__name__ == 'DTensor' for parameter in model.parameters()
    )


def note_differences(notes):
    """Log paths that are other ones on other machines."""
    for note in notes[:5]:
        print_log(f'the machines have different paths: {note}', 'current', logging.WARNING)
