"""Resuming a training in the middle of an epoch, with the batch that an uninterrupted run would see.

MMEngine's EpochBasedTrainLoop starts the epoch again, and counts the iterations of both attempts. Its
IterBasedTrainLoop draws other random numbers after a resume.
"""

import random

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from .step_seeds import LOAD, ResumableIterBasedTrainLoop, seed_step


def position(loop, meta):
    """Return how many batches of the current epoch a checkpoint has behind it.

    Args:
        loop: the training loop, with its data loader.
        meta: of the checkpoint, with ``epoch`` (finished epochs) and ``iter``.

    Returns:
        0 between two epochs, and for loops that count iterations.
    """
    return meta['iter'] - meta['epoch'] * len(loop.dataloader) if isinstance(loop, EpochBasedTrainLoop) else 0


def gathered_random_states():
    """Return the states of the random numbers of all ranks, in the order of the ranks. All ranks must call this."""
    return all_gather_object(random_state())


def random_state():
    """Return the states of Python's, NumPy's and PyTorch's random numbers, as tensors and numbers."""
    version, words, gauss = random.getstate()
    _, keys, place, has_gauss, cached = np.random.get_state()
    return dict(
        python=[version, torch.tensor(words), gauss],
        numpy=[torch.from_numpy(keys.astype(np.int64)), place, has_gauss, cached],
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    )


def set_random_state(state):
    """Restore what :func:`random_state` returned."""
    version, words, gauss = state['python']
    random.setstate((version, tuple(words.tolist()), gauss))
    keys, place, has_gauss, cached = state['numpy']
    np.random.set_state(('MT19937', keys.cpu().numpy().astype(np.uint32), place, has_gauss, cached))
    torch.set_rng_state(state['torch'].cpu())
    if state['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


class _RestOfEpoch:
    """A batch sampler that once leaves out the batches before a place, and restores the random numbers there."""

    def __init__(self, batch_sampler, done, restore):
        self._batch_sampler, self._left_out, self._restore = batch_sampler, done, restore

    def __len__(self):
        return len(self._batch_sampler)

    def __getattr__(self, name):
        if name.startswith('__') or name == '_batch_sampler':  # a copy asks before it has the attribute
            raise AttributeError(name)
        return getattr(self._batch_sampler, name)

    def __iter__(self):
        left_out, self._left_out = self._left_out, 0
        batches = iter(self._batch_sampler)
        if left_out:
            for _ in range(left_out):
                next(batches, None)
            self._restore()
        yield from batches


class _RestoreLater:
    """An iterator that restores the random numbers after so many batches, which the loop loads and drops."""

    def __init__(self, batches, dropped, restore):
        self._batches, self._left, self._restore = batches, dropped, restore

    def __getattr__(self, name):
        if name.startswith('__') or name == '_batches':
            raise AttributeError(name)
        return getattr(self._batches, name)

    def __iter__(self):
        return self

    def __next__(self):
        if self._left == 0:
            self._restore()
        self._left -= 1
        return next(self._batches)


def resume_position(runner, done, states):
    """Prepare the loop of a resumed runner, before its first epoch, to go on behind the batches that were trained on.

    Args:
        runner: an MMEngine Runner whose training loop is about to run.
        done: how many batches of the current epoch are behind it, see :func:`position`.
        states: what :func:`gathered_random_states` returned, of the run that saved the checkpoint. A rank that it does
            not have gets random numbers from the seed and the step.

    Raises:
        ValueError: the data loader has no batch sampler, so no batches can be left out.
    """
    loop, rank, step = runner.train_loop, get_rank(), runner.iter

    def restore():
        if rank < len(states or ()):
            set_random_state(states[rank])
        else:
            seed_step(runner, LOAD, step)

    if isinstance(loop, IterBasedTrainLoop) and not isinstance(loop, ResumableIterBasedTrainLoop):
        if states:
            loop.dataloader_iterator = _RestoreLater(loop.dataloader_iterator, step, restore)
    elif done > 0:
        if getattr(loop.dataloader, 'batch_sampler', None) is None:
            raise ValueError(
                f'the checkpoint is in the middle of an epoch, after {done} batches, and {type(loop).__name__} has '
                'a data loader without a batch sampler, which cannot go on there. Resume from a checkpoint that was '
                'saved at the end of an epoch'
            )
        # PyTorch refuses to set the attribute of a data loader; its iterators read it when they start
        vars(loop.dataloader)['batch_sampler'] = _RestOfEpoch(loop.dataloader.batch_sampler, done, restore)
        run_iter = loop.run_iter
        loop.run_iter = lambda batch_idx, *args, **kwargs: run_iter(batch_idx + done, *args, **kwargs)


def leave_position(loop):
    """Undo :func:`resume_position` at the end of the epoch."""
    vars(loop).pop('run_iter', None)
    batch_sampler = getattr(loop.dataloader, 'batch_sampler', None)
    if isinstance(batch_sampler, _RestOfEpoch):
        vars(loop.dataloader)['batch_sampler'] = batch_sampler._batch_sampler
