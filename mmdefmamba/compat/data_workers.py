"""Workers of a DataLoader: they end with the process that started them, and work under the same mends.

Defect 1: a worker that finds its parent gone leaves its loop and then waits until somebody reads what it still has to
hand over. Nobody does. Where a batch is larger than a pipe holds, 64 KiB, a killed training leaves its workers behind
for ever.
Seen in: torch 2.14, on Linux, ``kill -9`` of a training with two workers.
Can go: when ``torch.utils.data._utils.worker._worker_loop`` calls ``cancel_join_thread`` for a dead parent, too.

Defect 2: a worker that is started by spawn or forkserver is a new Python process, which imports what its dataset names
and nothing else: no mend of the parent holds there.
Can go: with the last of the other mends.
"""

import os

from .marks import replace

_NAME = 'data_workers'
# What each new worker calls before it loads data, by name; picklable functions without arguments.
_setups = {}


def apply(worker):
    """Mend ``torch.utils.data._utils.worker``; returns whether that changed it."""
    watched = replace(worker, 'ManagerWatchdog', _exiting_watchdog, _NAME)
    return replace(worker, '_worker_loop', _WorkerLoop, _NAME) or watched


def set_up_workers(name, function):
    """Have each worker that starts from now on call a function before it loads data.

    Args:
        name: replaces the function that was set under the same name.
        function: a picklable callable without arguments, or None to remove it. A forked worker does not call it: it has
            the memory of its parent.
    """
    _setups.pop(name, None)
    if function is not None:
        _setups[name] = function


def _exiting_watchdog(watchdog):
    class Watchdog(watchdog):
        """What the loop of a worker asks every few seconds."""

        def is_alive(self):
            if super().is_alive():
                return True
            os._exit(1)  # skips the finalizer of the queue, which would wait

    return Watchdog


class _WorkerLoop:
    """The target of a worker's process: PyTorch's loop, after this package was imported and the set-up was done.

    A new process unpickles its target before its arguments, so the mends hold before the dataset is unpickled.
    """

    def __init__(self, torch_loop):
        self.__wrapped__ = torch_loop

    def __call__(self, *args, **kwargs):
        return self.__wrapped__(*args, **kwargs)

    def __reduce__(self):
        return _worker_loop_with, (tuple(_setups.values()),)


def _worker_loop_with(setups):
    """Return the loop of a worker, in the worker's own process. Importing this module has applied the mends there."""
    from torch.utils.data._utils import worker

    for set_up in setups:
        set_up()
    return worker._worker_loop
