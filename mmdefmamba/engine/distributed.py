"""Distributed runs without a GPU.

MMEngine puts every process of a distributed run on a CUDA device, with no way around it: ``init_dist`` calls
``torch.cuda.set_device``, and its wrapper gets the device of LOCAL_RANK. This lets ``dist_train.sh CONFIG 2`` run on a
CPU, to debug and to test.
"""

from datetime import timedelta

import torch
from mmengine.device import get_device
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class AnyDeviceDistributedDataParallel(MMDistributedDataParallel):
    """MMEngine's distributed wrapper, for models on a CPU as well.

    Args:
        module: the model. On a CPU its SyncBatchNorm layers become plain ones: PyTorch has no others there.
        device_ids: as MMEngine gives it; of no meaning on a CPU.
        **kwargs: as for ``MMDistributedDataParallel``.
    """

    def __init__(self, module, device_ids=None, **kwargs):
        if next(module.parameters()).device.type == 'cpu':
            module, device_ids = revert_sync_batchnorm(module), None
        super().__init__(module, device_ids=device_ids, **kwargs)


def init_without_gpu(cfg):
    """Start the process group over gloo where the launcher asks for a distributed run and there is no accelerator.

    Call it before a runner is built from ``cfg``. The backend in ``cfg.env_cfg`` is not changed: the runner saves
    ``cfg``, and what is saved shall run on a GPU, too.

    Args:
        cfg: the whole config; its ``model_wrapper_cfg`` is changed to one that works on any device.

    Returns:
        What was done and why, one line; None where nothing was.

    Raises:
        ValueError: the launcher is not ``pytorch``.
    """
    if cfg.launcher == 'none' or get_device() != 'cpu':
        return None
    if cfg.launcher != 'pytorch':
        raise ValueError(
            f'--launcher {cfg.launcher} needs a GPU and PyTorch sees none here; on a CPU use tools/dist_*.sh or '
            '--launcher pytorch'
        )
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        broadcast_buffers=False, find_unused_parameters=cfg.get('find_unused_parameters', False)
    )
    if wrapper.get('type', 'MMDistributedDataParallel') == 'MMDistributedDataParallel':
        cfg.model_wrapper_cfg = dict(wrapper, type='AnyDeviceDistributedDataParallel')
    timeout = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
    torch.distributed.init_process_group('gloo', timeout=timeout and timedelta(seconds=timeout))
    return 'distributed over gloo, on the CPU, SyncBN as plain BN: PyTorch sees no GPU here'
