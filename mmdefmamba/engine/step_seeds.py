"""Random numbers that depend only on the seed, the rank and the step, so that a resumed run draws the same ones."""

import itertools
import logging
import random

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS, LOOPS
from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import BatchSampler

# The purposes for which a step draws random numbers; each has a seed of its own.
EPOCH, STEP, LOAD = range(3)


def seed_step(runner, purpose, step):
    """Seed Python, NumPy and PyTorch for one step of a run.

    Args:
        runner: its ``seed`` and the rank are part of the seed, so that processes drop different paths.
        purpose: ``EPOCH``, ``STEP`` or ``LOAD``.
        step: number of the epoch or iteration.
    """
    words = np.random.SeedSequence([runner.seed, get_rank(), purpose, step]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]))


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Seed each epoch and each iteration.

    Without this hook a resumed run draws other augmentations and drops other paths than an uninterrupted one. With it
    and with ``randomness.seed`` set, both end with the same weights, bit for bit, on a CPU and with ``num_workers=0``.
    Data workers have random numbers of their own, which persistent workers continue from epoch to epoch.
    """

    def before_train_epoch(self, runner):
        seed_step(runner, EPOCH, runner.epoch)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        seed_step(runner, STEP, runner.iter)


@LOOPS.register_module()
class ResumableIterBasedTrainLoop(IterBasedTrainLoop):
    """MMEngine's IterBasedTrainLoop, which here resumes at once, with the batch that an uninterrupted run would see.

    MMEngine's own loop loads each batch that was already trained on and drops it, which takes hours at iteration
    120,000. This loop only advances the sampler.

    Args:
        runner, dataloader, max_iters, ...: as for MMEngine's IterBasedTrainLoop.
    """

    def run(self):
        """Train to the last iteration and return the model."""
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        if self._iter > 0:
            self._advance_data(self._iter)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            seed_step(self.runner, LOAD, self._iter)
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
            if self.runner.val_loop is not None and self._iter >= self.val_begin and due:
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _advance_data(self, batches):
        sampler, batch_sampler = self.dataloader.sampler, self.dataloader.batch_sampler
        if isinstance(sampler, InfiniteSampler) and type(batch_sampler) is BatchSampler:
            sampler.indices = itertools.islice(sampler._indices_of_rank(), batches * batch_sampler.batch_size, None)
            self.dataloader_iterator = type(self.dataloader_iterator)(self.dataloader)
            return
        print_log(
            f'loading and dropping {batches} batches that were already trained on: only InfiniteSampler with plain '
            f'batches can be advanced, got {type(sampler).__name__} and {type(batch_sampler).__name__}',
            logger='current',
            level=logging.WARNING,
        )
        for _ in range(batches):
            next(self.dataloader_iterator)
