"""The guard ``finite_loss``: a training stops when its weights are infinite or NaN.

Without it: MMEngine prints ``loss: nan`` and trains on. A few epochs later it has replaced the last good checkpoint.
"""

import logging
import math

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from ..files import shown


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop a training whose weights are no longer finite.

    The hook checks the loss every ``interval`` iterations and at the end of each epoch, before a checkpoint is saved.
    If the loss is infinite or NaN, the weights decide. One bad batch under ``AmpOptimWrapper`` leaves them unchanged,
    since its scaler skips the step: the hook warns. Weights that are not finite never recover: the hook stops the run.

    Args:
        interval: iterations from one check to the next; each check waits for the GPU.

    Raises:
        FloatingPointError: names the iteration, the losses and the first weight that is not finite.
    """

    def __init__(self, interval=50):
        self.interval = interval

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        due = self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner)
        if not (due or self.end_of_epoch(runner.train_dataloader, batch_idx)):
            return
        losses = {name: torch.as_tensor(value).item() for name, value in (outputs or {}).items()}
        if all(math.isfinite(value) for value in losses.values()):
            return
        place = f'iteration {runner.iter + 1}: {", ".join(f"{name} {value:g}" for name, value in losses.items())}'
        lost = [name for name, weight in runner.model.named_parameters() if not weight.isfinite().all()]
        if lost:
            raise FloatingPointError(
                f'{place}; {len(lost)} weights are no longer finite, {lost[0]} is the first. The run cannot recover: '
                f'continue from a checkpoint in {shown(runner.work_dir)} with a lower learning rate, a longer warm-up '
                'or '
                'optim_wrapper.clip_grad'
            )
        print_log(f'{place}; the weights are still finite', 'current', logging.WARNING)
