"""The guard ``resumed_schedule``: a resumed training follows the schedule of its config.

Without it: the checkpoint overwrites the length of each schedule. If a schedule counts iterations and the batch or the
number of GPUs has changed, the learning rate reaches its floor too early, or never falls.
"""

import logging
from collections import Counter
from types import SimpleNamespace

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop

from ..files import shown
from .runs import is_built, is_resumed, loaded_file

# What a scheduler keeps about its position; everything else are settings.
_POSITION = {'_global_step', '_last_value', 'base_values', 'last_step', 'verbose'}
_LIBRARIES = {'mmdet', 'mmengine', 'mmpretrain', 'mmseg'}


@HOOKS.register_module()
class ResumedScheduleHook(Hook):
    """Put the schedules of the config in the place of those of the checkpoint where they differ, before it is resumed.

    The checkpoint gives the epoch (or the iteration, if the loop counts iterations), the config gives the schedule. The
    learning rate becomes that of a training that had the config from its start.

    Raises:
        ValueError: a schedule differs that depends on scores, or one of several optimizers; or a schedule was made for
            the length of the training in iterations, and no longer has it. Says what differs.
    """

    def after_load_checkpoint(self, runner, checkpoint):
        if not (is_resumed(runner) and is_built(runner, 'train') and checkpoint.get('param_schedulers')):
            return
        schedulers, saved = runner.param_schedulers, checkpoint['param_schedulers']
        per_epoch, by_epoch = len(runner.train_dataloader), not isinstance(runner.train_loop, IterBasedTrainLoop)
        meta = checkpoint['meta']
        epoch = meta['epoch'] if by_epoch else None
        before = float(meta.get('iters_per_epoch', 0)) or (meta['iter'] / epoch if epoch else None)
        changed_batch = by_epoch and before is not None and before != per_epoch
        if changed_batch and float(before).is_integer():
            # in the middle of an epoch: behind the same images
            here = epoch * per_epoch + round((meta['iter'] - epoch * before) * per_epoch / before)
        else:
            here = epoch * per_epoch if changed_batch else meta['iter']
        if not schedulers or isinstance(schedulers, dict) != isinstance(saved, dict):
            return
        pairs = _pairs(schedulers, saved)
        differences = [text for scheduler, state in pairs for text in changes(scheduler, state)]
        if not isinstance(schedulers, dict) and len(schedulers) != len(saved):
            differences.append(f'{len(saved)} schedulers in the checkpoint, {len(schedulers)} in the config')
        if changed_batch:
            _check_length(runner, pairs, epoch, before, per_epoch)
        if differences:
            if isinstance(schedulers, dict) or any(getattr(each, 'need_val_args', False) for each in schedulers):
                raise ValueError(
                    f'the schedule of {shown(loaded_file(runner))} differs from the config: {"; ".join(differences)}. '
                    'It '
                    'cannot be computed for this kind of schedule. Resume with the batch, the number of GPUs and the '
                    'schedule that the training was started with'
                )
            rates = recompute(runner, checkpoint, epoch, here, per_epoch)
            print_log(
                f'{shown(loaded_file(runner))} has another schedule than the config: {"; ".join(differences)}. The '
                'training '
                f'goes on with the schedule of the config: the learning rate is {rates} now',
                'current',
                logging.WARNING,
            )
        if changed_batch and float(before).is_integer():
            meta.update(iter=here, iters_per_epoch=per_epoch)
            print_log(
                f'an epoch had {before:.0f} iterations and has {per_epoch} now; the training goes on at iteration '
                f'{meta["iter"]}',
                'current',
                logging.WARNING,
            )


def changes(scheduler, state):
    """Return which settings of a scheduler differ from those in a checkpoint, as texts.

    Args:
        scheduler: as the config has it.
        state: its ``state_dict`` in the checkpoint.
    """
    own = scheduler.state_dict()
    names = set(own) - _POSITION
    if type(scheduler).__module__.partition('.')[0] not in _LIBRARIES or getattr(scheduler, 'need_val_args', False):
        names &= {'begin', 'by_epoch', 'end'}  # its other attributes may be its position
    return [
        f'{type(scheduler).__name__}.{name} is {_shown(state[name])} in the checkpoint and {_shown(own[name])} here'
        for name in sorted(names)
        if name in state and state[name] != own[name]
    ]


def recompute(runner, checkpoint, epoch, iterations, per_epoch):
    """Take the schedulers of a runner from their start to the position of a checkpoint, and write that into it.

    Args:
        runner: with schedulers at their start.
        checkpoint: its ``param_schedulers`` and the learning rates in its ``optimizer`` are replaced.
        epoch: finished epochs, or None if the loop counts iterations.
        iterations: finished iterations.
        per_epoch: iterations per epoch.

    Returns:
        The largest learning rate now, as text.
    """
    schedulers = runner.param_schedulers
    groups = [
        {name: value for name, value in group.items() if name != 'params'}
        for group in schedulers[0].optimizer.param_groups
    ]
    # many groups, one per parameter, differ in nothing that a schedule reads
    first = [next(i for i, other in enumerate(groups) if other == group) for group in groups]
    chosen = sorted(set(first))
    small = SimpleNamespace(param_groups=[dict(groups[i]) for i in chosen], step=_counted_step, _global_step=0)
    kept = [(each.optimizer, each.base_values) for each in schedulers]
    for scheduler in schedulers:
        scheduler.optimizer, scheduler.base_values = small, [scheduler.base_values[i] for i in chosen]
    for iteration in range(1, iterations + 1):
        for scheduler in schedulers:
            if not scheduler.by_epoch or (epoch is not None and iteration % per_epoch == 0):
                scheduler.step()
    for scheduler, state in zip(schedulers, checkpoint['param_schedulers'], strict=False):
        # a warm-up that is over stays over
        over = not scheduler.by_epoch and state['_global_step'] >= scheduler.end and not changes(scheduler, state)
        while over and scheduler._global_step < scheduler.end:
            scheduler.step()
    groups = [small.param_groups[chosen.index(i)] for i in first]
    for scheduler, (optimizer, base_values) in zip(schedulers, kept, strict=True):
        scheduler.optimizer, scheduler.base_values = optimizer, base_values
        scheduler._last_value = [group[scheduler.param_name] for group in groups]
    checkpoint['param_schedulers'] = [scheduler.state_dict() for scheduler in schedulers]
    saved = checkpoint.get('optimizer')  # a run can save its checkpoints without it
    targets = [*saved['param_groups'], *_base(saved)] if saved else schedulers[0].optimizer.param_groups
    for target, group in zip(targets, groups, strict=True):
        target.update({name: value for name, value in group.items() if name in target and name != 'params'})
    return f'{max(group["lr"] for group in groups):.4g}'


def _base(saved):
    """Return the group of MMEngine's OptimWrapper for the base learning rate, which it keeps apart, as a list."""
    return [saved['base_param_settings']] if 'base_param_settings' in saved else []


def _counted_step():
    """Stand in for the step of an optimizer, whose mark tells MMEngine that steps are counted."""


_counted_step._with_counter = True


def _check_length(runner, pairs, epoch, before, per_epoch):
    """Refuse a schedule in iterations that was made for the whole training before, and does not end with it now."""
    epochs = runner.max_epochs
    for scheduler, state in pairs:
        ends = not scheduler.by_epoch and scheduler.end == round(epochs * before)
        if ends and scheduler.end != epochs * per_epoch and not changes(scheduler, state):
            raise ValueError(
                f'{type(scheduler).__name__} ends at iteration {scheduler.end}, the end of a training of {epochs} '
                f'epochs with {before:.0f} iterations each. With this batch and number of GPUs an epoch has '
                f'{per_epoch}: the training ends at iteration {epochs * per_epoch}. Set end={epochs * per_epoch} '
                '(and what else counts iterations), or use by_epoch=True with convert_to_iter_based=True'
            )


def _pairs(schedulers, saved):
    if isinstance(schedulers, dict):
        return [pair for name in schedulers for pair in zip(schedulers[name], saved[name], strict=False)]
    return list(zip(schedulers, saved, strict=False))


def _shown(value):
    return dict(value) if isinstance(value, Counter) else value
