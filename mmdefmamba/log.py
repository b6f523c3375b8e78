"""The logger of the package: INFO lines appear, and are part of the log of a run."""

import logging
import multiprocessing
import os
import sys

from .files import say


class _VisibleHandler(logging.Handler):
    """Prints a record where the user looks: in the log of MMEngine's run, or on stderr.

    What is logged while libraries are imported goes to stderr. Where the root logger has handlers, these print it.
    """

    def emit(self, record):
        if record.name != 'mmdefmamba.compat' and 'mmengine.runner' in sys.modules:
            from mmengine.logging import print_log

            print_log(self.format(record), logger='current', level=record.levelno)
        elif not logging.getLogger().handlers:
            say(*f'{record.name}: {self.format(record)}'.split('\n'), file=sys.stderr)


def make_visible():
    """Let the logger ``mmdefmamba`` print INFO lines, unless the user has set another level; repeatable."""
    logger = logging.getLogger('mmdefmamba')
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _VisibleHandler) for handler in logger.handlers):
        logger.addHandler(_VisibleHandler())


def is_first_process():
    """Return whether this process should log: it is no worker of another, and rank 0 of a distributed run."""
    rank = next((os.environ[name] for name in ('RANK', 'SLURM_PROCID') if os.environ.get(name)), '0')
    return multiprocessing.parent_process() is None and rank == '0'
