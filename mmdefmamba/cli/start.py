"""How tools/train.py and tools/test.py start: all processes of a run together, or none."""

import contextlib
import logging
import os
import socket
import time
from pathlib import Path

from mmengine.logging import print_log

from ..checkpoints.resuming import find_resumable_checkpoint
from ..engine.agreement import check_plans, note_differences, plan
from ..engine.distributed import end_distributed_run, has_rendezvous, join
from ..engine.interruption import TrainingInterrupted, end_with_torchrun
from ..engine.rendezvous import Rendezvous
from ..engine.work_dir_lock import WorkDirLock
from ..files import shown


@contextlib.contextmanager
def started(args, read, alone=False):
    """Read the config, meet the other processes of the run, and yield the config.

    If the block raises an error, the other processes end as well, and say why.

    Args:
        args: parsed arguments of the tool.
        read: ``read(args)`` returns the config.
        alone: whether no other run of this kind may use the work dir meanwhile.

    Raises:
        ValueError: another process cannot start, or is about to do something else.
        TimeoutError: other processes did not start in time.
        RuntimeError: another training runs in the work dir.
        OSError: the work dir cannot be written to.
    """
    with contextlib.ExitStack() as kept:
        cfg, rendezvous = start(args, read, kept if alone else None)
        try:
            yield cfg
        except BaseException as error:
            if isinstance(error, TrainingInterrupted) and error.together:
                _end(rendezvous)
            elif rendezvous is not None:
                rendezvous.fail(error)
            raise
        _end(rendezvous)


def start(args, read, locks=None):
    """Return the config and the :class:`Rendezvous` of a run, which is None without other processes.

    Args:
        args, read: see :func:`started`.
        locks: the ExitStack that holds the lock of the work dir, or None.
    """
    end_with_torchrun()
    if not has_rendezvous(args.launcher):
        cfg = read(args)
        if locks is not None:
            locks.enter_context(WorkDirLock(cfg.work_dir))
        return cfg, None
    rendezvous = Rendezvous(args.launcher)
    try:
        cfg = read(args)
        record = dict(plan=plan(cfg))
    except Exception as error:
        rendezvous.call_roll(dict(error=f'{type(error).__name__}: {error}'))
        rendezvous.leave_together()
        raise
    records = rendezvous.call_roll(record)
    try:
        notes = check_plans(records)
    except ValueError:
        rendezvous.leave_together()
        raise
    rendezvous.watch()
    try:
        if locks is not None:
            _lock(rendezvous, cfg, locks)
        join(cfg, rendezvous, records)
    except BaseException as error:
        rendezvous.fail(error)
        raise
    if rendezvous.rank == 0:
        note_differences(notes)
    return cfg, rendezvous


def resume_after_restart(cfg):
    """Have a training that torchrun has started again go on from the last checkpoint that it has saved itself.

    Args:
        cfg: its ``resume`` and ``load_from`` are set, if there is such a checkpoint. One that was in the work dir
            before torchrun started is not taken.
    """
    last = find_resumable_checkpoint(cfg.work_dir)
    begin = _start_of_torchrun()
    if last is None or begin is None or Path(last).stat().st_mtime < begin:
        print_log(
            'torchrun has started this training again; it has not saved a checkpoint yet', 'current', logging.WARNING
        )
        return
    cfg.resume, cfg.load_from = True, last
    print_log(f'torchrun has started this training again; it goes on from {shown(last)}', 'current', logging.WARNING)


def _lock(rendezvous, cfg, locks):
    """Lock the work dir for all processes, in the first one."""
    if rendezvous.rank != 0:
        rendezvous.store.wait(['locked'])  # or the watch ends this process
        return
    locks.enter_context(WorkDirLock(cfg.work_dir))
    rendezvous.store.set('locked', socket.gethostname())


def _end(rendezvous):
    if rendezvous is not None:
        end_distributed_run()
        rendezvous.stop_watching()


def _start_of_torchrun():
    """Return when the parent of this process started, in seconds as ``time.time`` counts them; None if not on Linux."""
    try:
        ticks = int(Path(f'/proc/{os.getppid()}/stat').read_text().rpartition(')')[2].split()[19])
        uptime = float(Path('/proc/uptime').read_text().split()[0])
    except OSError:
        return None
    return time.time() - uptime + ticks / os.sysconf('SC_CLK_TCK')
