"""A training that has lost its weights to infinity or NaN stops, instead of going on to its last epoch.

MMEngine prints ``loss: nan`` and trains on; a few epochs later the last good checkpoint has been removed for a new one.
"""

import logging
import math

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop a training whose weights are no longer finite.

    The loss is looked at every ``interval`` iterations and at the end of every epoch, before a checkpoint is saved.
    Where it is infinite or NaN the weights decide: one bad batch under ``AmpOptimWrapper`` leaves them as they were,
    since its scaler skips the step, and is warned of; weights that are not finite never come back.

    Args:
        interval: iterations from one look to the next; each waits for the GPU.

    Raises:
        FloatingPointError: names the iteration, the losses and the first such weights.
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
                f'{place}; {len(lost)} weights are not finite any more, {lost[0]} the first: nothing more is learned. '
                f'Go on from a checkpoint in {runner.work_dir} with a lower learning rate, a longer warm-up or '
                'optim_wrapper.clip_grad'
            )
        print_log(f'{place}, the weights are finite still', 'current', logging.WARNING)
