"""Data workers that end when their training is killed.

Defect: a worker of a DataLoader that finds its parent gone leaves its loop, and then waits for what it had still
to hand over, which nobody reads any more. Where a batch is larger than a pipe holds, 64 KiB, a killed training leaves
workers behind, for ever.
Seen in: torch 2.14, on Linux, `kill -9` of a training with two workers.
Can go: when ``torch.utils.data._utils.worker._worker_loop`` calls ``cancel_join_thread`` for a dead parent, too.
"""

import os

from torch.utils.data._utils import worker


def apply():
    """Let workers exit at once where they find their parent gone.

    Returns:
        What was done and why, one line; None where nothing was.
    """
    if issubclass(worker.ManagerWatchdog, _Watchdog):
        return None
    worker.ManagerWatchdog = _Watchdog
    return 'data workers exit when their parent is gone: PyTorch has them wait for ever if a batch was not read'


class _Watchdog(worker.ManagerWatchdog):
    """What the loop of a worker asks every few seconds."""

    def is_alive(self):
        if super().is_alive():
            return True
        os._exit(1)  # without the queue's finalizer, which is what would wait
