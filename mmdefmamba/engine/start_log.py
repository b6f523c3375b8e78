"""The start of a run in the log: a summary, and the long lists in a file of their own."""

import logging
import os
import re
from collections import Counter
from pathlib import Path

from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS, RUNNERS
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..files import shown
from ..model_wrappers import plain_model
from .interruption import guard_data_worker

# The records of MMEngine that go to the file of details: environment, config, hooks, and one line per parameter.
_DETAILS = re.compile(
    r'\n-+\nSystem environment|Config:\n|Hooks will be executed in the following order|paramwise_options -- '
    r'|\S+ is skipped since its requires_grad=False$'
)


class _ToDetails(logging.Filter):
    """Hand the long records to another handler. MMEngine keeps each logger for ever, and the logger keeps this filter:
    it must not keep the runner with its model.
    """

    def __init__(self, handler):
        super().__init__()
        self.handler = handler

    def filter(self, record):
        if not _DETAILS.match(record.getMessage()):
            return True
        self.handler.handle(record)
        return False


@RUNNERS.register_module()
class BriefRunner(Runner):
    """MMEngine's Runner, whose log starts with a few lines instead of more than a thousand.

    The environment, the complete config, the list of hooks, and the settings and initialisation of each parameter go to
    ``details``, a file beside the log. With ``log_level='DEBUG'`` they are part of the log, as in MMEngine.

    Attributes:
        details: path of that file, or None where this process writes none: at log level DEBUG, and on other ranks.
    """

    details = None

    @staticmethod
    def build_dataloader(dataloader, *args, **kwargs):
        return guard_data_worker(Runner.build_dataloader(dataloader, *args, **kwargs))

    def build_logger(self, log_level='INFO', log_file=None, **kwargs):
        logger = super().build_logger(log_level, log_file, **kwargs)
        files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
        if files and files[0].level > logging.DEBUG:
            self.details = Path(files[0].baseFilename).with_suffix('.details.txt')
            self._handler = logging.FileHandler(self.details, encoding='utf-8', delay=True)
            self._handler.setFormatter(files[0].formatter)
            logger.addFilter(_ToDetails(self._handler))
        return logger

    def _init_model_weights(self):
        if self.details is None:
            return super()._init_model_weights()
        # MMEngine writes how each parameter was initialised into the files of the logger
        handlers = self.logger.handlers
        self.logger.handlers = [h for h in handlers if not isinstance(h, logging.FileHandler)] + [self._handler]
        try:
            return super()._init_model_weights()
        finally:
            self.logger.handlers = handlers
            self._handler.close()  # it opens the file again if it has more to write


@HOOKS.register_module()
class StartSummaryHook(Hook):
    """Log what a training is about to do: what is trained, how, on which data, and where its files are."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        runner.logger.info('\n'.join(['start of the training:', *summary_lines(runner)]))


def summary_lines(runner):
    """Return the lines of the summary of a training.

    Args:
        runner: a runner whose model, optimizer and training loop are built.
    """
    return [
        *_model_lines(plain_model(runner.model)),
        *_optimizer_lines(runner.optim_wrapper),
        *_data_lines(runner),
        *_file_lines(runner),
    ]


def _model_lines(model):
    total, trained = _counts(model)
    lines = [f'  model: {type(model).__name__}, {_trained_of(trained, total)}']
    for name, part in model.named_children():
        total, trained = _counts(part)
        if total:
            lines.append(f'    {name} ({type(part).__name__}): {_trained_of(trained, total)}')
    return lines


def _counts(module):
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)


def _trained_of(trained, total):
    if trained == total:
        return f'{total:,} parameters, all trained'
    return f'{total:,} parameters, {f"{trained:,} of them" if trained else "none"} trained'


def _optimizer_lines(wrapper):
    lines = []
    for name, one in wrapper.items() if isinstance(wrapper, OptimWrapperDict) else [('', wrapper)]:
        groups = Counter()
        for group in one.optimizer.param_groups:
            rate = group.get('initial_lr', group.get('lr', 0))
            groups[rate, group.get('weight_decay', 0)] += sum(parameter.numel() for parameter in group['params'])
        lines.append(f'  optimizer{name and f" {name}"}: {type(one.optimizer).__name__}, {type(one).__name__}')
        for (rate, decay), count in sorted(groups.items(), reverse=True):
            lines.append(f'    lr {rate:.4g}, weight decay {decay:.4g}: {count:,} parameters')
    return lines


def _data_lines(runner):
    lines = []
    loaders = [('training', runner.train_dataloader)]
    if runner.val_loop is not None:
        loaders.append(('validation', runner.val_dataloader))
    for name, loader in loaders:
        dataset = loader.dataset
        meta = getattr(dataset, 'metainfo', None)
        classes = meta.get('classes') if hasattr(meta, 'get') else None
        batch = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None)
        lines.append(
            f'  {name} data: {type(dataset).__name__}, {len(dataset):,} images'
            + (f', {len(classes)} classes' if classes is not None else '')
            + (f', batches of {batch}' if batch else '')
            + (f' on each of {runner.world_size} processes' if batch and runner.world_size > 1 else '')
        )
    length = f'{runner.max_epochs} epochs, ' if isinstance(runner.train_loop, EpochBasedTrainLoop) else ''
    return [*lines, f'  length: {length}{runner.max_iters:,} iterations, from iteration {runner.iter:,}']


def _file_lines(runner):
    hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    if hook is None:
        lines = ['  checkpoints: none, since the config has no CheckpointHook']
    else:
        unit = 'epochs' if hook.by_epoch else 'iterations'
        kept = f', the last {hook.max_keep_ckpts} are kept' if hook.max_keep_ckpts > 0 else ', all are kept'
        best = hook.save_best or ()
        best = f', and the best by {best if isinstance(best, str) else ", ".join(best)}' if best else ''
        lines = [f'  checkpoints: {shown(hook.out_dir or runner.work_dir)}, every {hook.interval} {unit}{kept}{best}']
    if runner.cfg.filename:
        config = os.path.join(runner.work_dir, Path(runner.cfg.filename).name)
        lines.append(f'  config with its bases and options merged: {shown(config)}')
    return [*lines, f'  logs and scores: {shown(runner.log_dir)}']
