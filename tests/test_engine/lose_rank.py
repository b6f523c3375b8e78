"""A hook that loses a rank of a distributed run; a test config imports it."""

import os
import signal
import time
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class LoseRank(Hook):
    """A hook that kills one process, raises an error in it or lets it hang, before the third iteration.

    Args:
        rank: the rank of the process.
        how: 'kill', 'raise' or 'hang'.
    """

    def __init__(self, rank, how):
        self.rank, self.how = rank, how

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank != self.rank or runner.iter != 2:
            return
        Path(runner.work_dir, 'lost').write_text(str(time.time()))
        if self.how == 'kill':
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == 'raise':
            raise RuntimeError('this rank was lost')
        time.sleep(600)


@HOOKS.register_module()
class LoseOnce(Hook):
    """A hook that kills the process before certain iterations, at each of them once.

    Args:
        iterations: finished iterations at which the process is killed.
    """

    def __init__(self, iterations):
        self.iterations = iterations

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        mark = Path(runner.work_dir, f'lost_{runner.iter}')
        if runner.iter in self.iterations and not mark.exists():
            mark.write_text('')
            os.kill(os.getpid(), signal.SIGKILL)
