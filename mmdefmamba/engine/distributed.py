"""Distributed runs without a GPU.

MMEngine puts each process of a distributed run on a CUDA device: ``init_dist`` calls ``torch.cuda.set_device``, and its
wrapper gets the device of LOCAL_RANK. This module lets ``dist_train.sh CONFIG 2`` run on a CPU, to debug and to test.
"""

import os
import socket
import sys
from datetime import timedelta

import torch
from mmengine.device import get_device
from mmengine.dist import barrier
from mmengine.model import (
    MMDistributedDataParallel,
    MMFullyShardedDataParallel,
    revert_sync_batchnorm,
)
from mmengine.registry import MODEL_WRAPPERS
from mmengine.utils import digit_version
from torch.distributed import PrefixStore

from ..files import say
from .rendezvous import use_reachable_interface

# The wrapper that a strategy of MMEngine's FlexibleRunner uses by default, without its prefix `MM`.
_WRAPPERS = dict(DDPStrategy='DistributedDataParallel', FSDPStrategy='FullyShardedDataParallel')


@MODEL_WRAPPERS.register_module()
class AnyDeviceDistributedDataParallel(MMDistributedDataParallel):
    """MMEngine's distributed wrapper, for models on a CPU as well.

    Args:
        module: the model. On a CPU its SyncBatchNorm layers become plain ones: PyTorch has no SyncBatchNorm there.
        device_ids: as MMEngine gives it; ignored on a CPU.
        **kwargs: as for ``MMDistributedDataParallel``.
    """

    def __init__(self, module, device_ids=None, **kwargs):
        if next(module.parameters()).device.type == 'cpu':
            module, device_ids = revert_sync_batchnorm(module), None
        super().__init__(module, device_ids=device_ids, **kwargs)


@MODEL_WRAPPERS.register_module()
class AnyDeviceFullyShardedDataParallel(MMFullyShardedDataParallel):
    """MMEngine's sharding wrapper, for models on a CPU as well.

    Args:
        module: the model.
        device_id: the local rank, as MMEngine gives it; ignored on a CPU.
        **kwargs: as for ``MMFullyShardedDataParallel``.

    Raises:
        RuntimeError: on a CPU, PyTorch is older than 2.14.
    """

    def __init__(self, module, device_id=None, **kwargs):
        if get_device() == 'cpu':
            # refused before the run, which would crash after its first epoch; seen in 2.7 to 2.12
            if digit_version(torch.__version__) < digit_version('2.14'):
                raise RuntimeError(
                    f'FSDP on a CPU needs PyTorch 2.14, but this is {torch.__version__}: older releases crash when a '
                    "checkpoint is saved. On a CPU use strategy = dict(type='DDPStrategy')"
                )
            device_id = torch.device('cpu')
        super().__init__(module, device_id=device_id, **kwargs)


def has_rendezvous(launcher):
    """Return whether the processes of a launcher meet in a :class:`Rendezvous`. MMEngine has its own way for others."""
    if launcher == 'pytorch':
        return get_device() in ('cpu', 'cuda')
    return launcher in ('slurm', 'mpi') and get_device() == 'cuda'


def join(cfg, rendezvous, records):
    """Start the process group, over gloo without a GPU.

    Args:
        cfg: the whole config; ``env_cfg.dist_cfg`` has the ``backend``, the ``timeout`` in seconds, and other arguments
            of PyTorch's ``init_process_group``.
        rendezvous: where the processes have met.
        records: what each of them has said.

    Raises:
        ValueError: the first machine has a loopback address here.
    """
    options = dict(cfg.get('env_cfg', {}).get('dist_cfg', {}))
    if options.pop('init_backend', 'torch') != 'torch':
        return  # MMEngine starts it
    backend, timeout, _ = options.pop('backend', 'nccl'), options.pop('timeout', None), options.pop('port', None)
    if get_device() == 'cpu':
        backend = 'gloo'
    else:
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    address = socket.gethostbyname(rendezvous.address)
    if len({one['host'] for one in records}) > 1 and 'gloo' in backend:
        note = use_reachable_interface(address)
        if note:
            say(note, file=sys.stderr)
    rendezvous.connecting()
    torch.distributed.init_process_group(
        backend,
        store=PrefixStore('group', rendezvous.store),
        rank=rendezvous.rank,
        world_size=rendezvous.world_size,
        timeout=timeout and timedelta(seconds=timeout),
        **options,
    )
    barrier()
    rendezvous.connected()


def init_without_gpu(cfg):
    """Prepare a config for a distributed run without an accelerator; start the process group, if it is not there yet.

    Call it before a runner is built from ``cfg``. It does not change the backend in ``cfg.env_cfg``: the runner saves
    ``cfg``, and the saved config must also run on a GPU.

    Args:
        cfg: the whole config. Its ``model_wrapper_cfg``, or its ``strategy`` for a FlexibleRunner, is changed to a
            wrapper that works on any device.

    Returns:
        A line for the log that says what was done and why, or None if nothing was done.

    Raises:
        ValueError: the launcher is not ``pytorch``.
    """
    if cfg.launcher == 'none' or get_device() != 'cpu':
        return None
    if cfg.launcher != 'pytorch':
        raise ValueError(
            f'--launcher {cfg.launcher} needs a GPU, but PyTorch finds none. On a CPU use tools/dist_*.sh or '
            '--launcher pytorch'
        )
    if cfg.get('runner_type') == 'FlexibleRunner':
        cfg.setdefault('strategy', dict(type='DDPStrategy'))
        if cfg.strategy.type in _WRAPPERS:
            cfg.strategy.model_wrapper = _on_any_device(cfg.strategy.get('model_wrapper'), _WRAPPERS[cfg.strategy.type])
    else:
        find_unused = cfg.get('find_unused_parameters', False)
        wrapper = cfg.get('model_wrapper_cfg') or dict(broadcast_buffers=False, find_unused_parameters=find_unused)
        cfg.model_wrapper_cfg = _on_any_device(wrapper, 'DistributedDataParallel')
    if not torch.distributed.is_initialized():
        timeout = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
        torch.distributed.init_process_group('gloo', timeout=timeout and timedelta(seconds=timeout))
    return 'distributed over gloo on the CPU, with plain BN instead of SyncBN, because PyTorch finds no GPU'


def end_distributed_run():
    """Leave the process group after a run that succeeded.

    A process that ends as a member of a gloo group can abort in the destructor of a thread, with exit code -6 (seen in
    torch 2.14, on a busy machine). The launcher then reports a run as failed that has done all its work.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _on_any_device(wrapper, kind):
    wrapper = dict(wrapper or (dict(broadcast_buffers=False) if kind == 'DistributedDataParallel' else {}))
    if wrapper.get('type', f'MM{kind}') == f'MM{kind}':
        wrapper['type'] = f'AnyDevice{kind}'
    return wrapper
