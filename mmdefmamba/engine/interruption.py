"""SIGTERM and SIGUSR1: a training saves a checkpoint at once, and ends with an exit status of its own."""

import contextlib
import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

import torch
from mmengine.dist import all_reduce, barrier
from mmengine.fileio import join_path
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop

from ..files import shown
from ..guards.runs import is_built, is_resumed
from .mid_epoch import gathered_random_states, leave_position, position, random_state, resume_position

#: The exit status of a training that was interrupted by a signal, and saved. It is EX_TEMPFAIL of sysexits.h: "a
#: temporary failure, try again".
INTERRUPTED = 75
#: The signals that interrupt a training. Slurm sends the one that ``--signal`` names before a job's time is over.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
#: tools/dist_*.sh name a file here. torchrun reports each exit status but 0 as a failure, or starts the process again:
#: an interrupted process leaves a note in this file and ends with 0, and the script ends with ``INTERRUPTED``.
NOTE = 'MMDEFMAMBA_INTERRUPTED_NOTE'
#: tools/dist_*.sh name their own process here.
LAUNCHER = 'MMDEFMAMBA_LAUNCHER_PID'
_PR_SET_PDEATHSIG = 1


class TrainingInterrupted(SystemExit):
    """A training was interrupted by a signal, and has saved what it needs to go on.

    Args:
        together: whether all processes of the run end here.
    """

    def __init__(self, together=False):
        self.together = together
        note = os.environ.get(NOTE)
        if note:
            Path(note).write_text('interrupted')
        super().__init__(0 if note else INTERRUPTED)


class _Signals:
    """What this process was told by signals. Before a training has started, a signal ends the process."""

    def __init__(self):
        self.received, self.training, self._before = 0, False, {}

    def install(self):
        """Take the signals over. Python allows this in the main thread only; elsewhere nothing happens."""
        if not self._before and threading.current_thread() is threading.main_thread():
            self.received = 0
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def restore(self):
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before, self.training = {}, False

    def _note(self, number, frame):
        repeated, self.received = self.received, self.received or number
        if not self.training:
            raise TrainingInterrupted
        if not repeated:  # a log could be in the middle of a line
            os.write(2, f'{signal.Signals(number).name}: saving a checkpoint after this step\n'.encode())


_signals = _Signals()


@contextlib.contextmanager
def interruptible(cfg):
    """Take SIGTERM and SIGUSR1 over for the whole run of a tool, if its config has an InterruptionHook.

    Before the first step a signal ends the process with the same exit status as later; there is nothing to save yet.

    Args:
        cfg: an MMEngine Config.
    """
    hooks = [*(cfg.get('custom_hooks') or ()), *(cfg.get('default_hooks') or {}).values()]
    kinds = [hook.get('type') for hook in hooks if isinstance(hook, dict)]
    if any(kind is InterruptionHook or str(kind).endswith(InterruptionHook.__name__) for kind in kinds):
        _signals.install()
    try:
        yield
    except Exception:
        # MMEngine formats the config under a bare `except`, which makes another error of the one of a signal
        if _signals.received and not _signals.training:
            raise TrainingInterrupted from None
        raise
    finally:
        _signals.restore()


@HOOKS.register_module()
class InterruptionHook(Hook):
    """Save a checkpoint when the process gets SIGTERM or SIGUSR1, on all ranks after the same step, and end.

    The process ends with exit status 75 (``INTERRUPTED``). ``--resume`` goes on behind the very batch, also in the
    middle of an epoch. The checkpoint is ``interrupted_epoch_E_iter_I.pth``, beside those of the CheckpointHook;
    ``last_checkpoint`` names it. ``max_keep_ckpts`` does not count it, and the next checkpoint replaces it.

    Where gradients are accumulated over several steps, the checkpoint is saved after the last of these. A signal during
    a validation ends the validation; the resumed training begins with it. A second signal changes nothing, since
    launchers send several.

    In a distributed run, each step exchanges one number, so that all ranks stop after the same one.
    """

    priority = 'LOWEST'  # the other hooks have done their part of the step

    def __init__(self):
        self._installed = False
        self._saved_at = self._states = self._resumed = self._last_seen = None
        self._val_batches = self._validated_before = 0

    def before_run(self, runner):
        self._installed = not _signals._before
        _signals.install()

    def after_run(self, runner):
        _signals.training = False
        if self._installed:
            _signals.restore()

    def after_load_checkpoint(self, runner, checkpoint):
        if not (is_resumed(runner) and is_built(runner, 'train')):
            return
        meta, loop = checkpoint['meta'], runner.train_loop
        per_epoch = meta.get('iters_per_epoch')
        if isinstance(loop, EpochBasedTrainLoop) and per_epoch and per_epoch != len(loop.dataloader):
            done = round((meta['iter'] - meta['epoch'] * per_epoch) * len(loop.dataloader) / per_epoch)
            meta['iter'] = meta['epoch'] * len(loop.dataloader) + done
        self._resumed = position(loop, meta), checkpoint.pop('random_states', None)
        self._saved_at = meta['epoch'], meta['iter']

    def before_train(self, runner):
        _signals.training = True
        self._last_seen = getattr(_checkpoint_hook(runner), 'last_ckpt', None)
        hub = runner.message_hub
        known = 'scored_iter' in hub.runtime_info
        if self._resumed and known and hub.get_info('scored_iter') != runner.iter and self._is_due(runner):
            runner.logger.info('validating first: the training was interrupted before this validation was done')
            runner.val_loop.run()
        elif not known:
            hub.update_info('scored_iter', 0)

    def before_train_epoch(self, runner):
        if self._resumed:
            resume_position(runner, *self._resumed)

    def after_train_epoch(self, runner):
        if self._resumed:
            self._resumed = None
            leave_position(runner.train_loop)
        self._remove_old(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._remove_old(runner)
        if self._is_told() and _has_stepped(runner.optim_wrapper):
            self._stop(runner, runner.epoch, runner.iter + 1)

    def before_val_epoch(self, runner):
        if not _signals.training:  # a validation of its own
            return
        self._val_batches = self._fewest(len(runner.val_dataloader))
        if self._is_told():
            self._stop_validation(runner)
        # a checkpoint that is saved during a validation is saved with its scores, at its end
        self._validated_before = runner.message_hub.get_info('scored_iter')
        runner.message_hub.update_info('scored_iter', runner.iter)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        # ranks can have one batch more than others: they do not ask there
        if _signals.training and batch_idx + 1 < self._val_batches and self._is_told():
            runner.message_hub.update_info('scored_iter', self._validated_before)
            self._stop_validation(runner)

    def before_save_checkpoint(self, runner, checkpoint):
        loop, meta = runner.train_loop, checkpoint['meta']
        if 'optimizer' in checkpoint:
            self._saved_at = meta['epoch'], meta['iter']
        if isinstance(loop, EpochBasedTrainLoop):
            meta['iters_per_epoch'] = len(loop.dataloader)
        states = self._states or ([random_state()] if runner.world_size == 1 else None)
        if states and (position(loop, meta) or not isinstance(loop, EpochBasedTrainLoop)):
            checkpoint['random_states'] = states

    def _is_due(self, runner):
        loop = runner.train_loop
        if runner.val_loop is None or position(loop, dict(epoch=loop.epoch, iter=loop.iter)):
            return False
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        now, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
        if hasattr(loop, '_decide_current_val_interval'):
            loop._decide_current_val_interval()
        return now >= loop.val_begin and (now % loop.val_interval == 0 or now == last)

    def _is_told(self):
        told = torch.tensor(_signals.received)
        all_reduce(told, 'max')
        return bool(told)

    def _fewest(self, number):
        fewest = torch.tensor(number)
        all_reduce(fewest, 'min')
        return int(fewest)

    def _stop_validation(self, runner):
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):  # it validates with the averaged weights, in the place of the trained ones
                hook.after_val_epoch(runner)
        self._stop(runner, runner.epoch, runner.iter)

    def _stop(self, runner, epoch, iteration):
        """Save, unless a checkpoint of this very step has been saved, and end."""
        self._states = gathered_random_states()
        path = None
        if self._saved_at != (epoch, iteration):
            path = self._save(runner, epoch, iteration)
        barrier()  # the first process has saved it
        runner.visualizer.close()
        print_log(
            f'interrupted by a signal after iteration {iteration}: '
            + (f'{shown(path)} is saved' if path else 'the last checkpoint is of this step')
            + f'. Continue with --resume. The exit status is {INTERRUPTED}',
            'current',
        )
        raise TrainingInterrupted(together=True)

    def _save(self, runner, epoch, iteration):
        hook, folder = _checkpoint_hook(runner), runner.work_dir
        options = dict(backend_args=dict(backend='atomic'))
        if hook is not None:
            folder = hook.out_dir or folder
            options = dict(
                file_client_args=hook.file_client_args,
                backend_args=hook.backend_args,
                save_optimizer=hook.save_optimizer,
                save_param_scheduler=hook.save_param_scheduler,
            )
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        name = f'interrupted_{f"epoch_{epoch}_" if by_epoch else ""}iter_{iteration}.pth'
        path = join_path(folder, name, backend_args=options['backend_args'])
        runner.save_checkpoint(folder, name, meta=dict(epoch=epoch, iter=iteration), by_epoch=False, **options)
        if runner.rank == 0:
            Path(runner.work_dir, 'last_checkpoint').write_text(str(path))
            _remove_interrupted(folder, but=name)
        return path

    def _remove_old(self, runner):
        """Remove checkpoints of interruptions, after the CheckpointHook has saved a later one."""
        hook = _checkpoint_hook(runner)
        if hook is not None and hook.last_ckpt != self._last_seen:
            self._last_seen = hook.last_ckpt
            if runner.rank == 0:
                _remove_interrupted(hook.out_dir)


def _checkpoint_hook(runner):
    return next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)


def _remove_interrupted(folder, but=None):
    for path in Path(folder).glob('interrupted_*iter_*.pth'):
        if path.name != but:
            path.unlink()


def _has_stepped(wrapper):
    """Return whether no gradients are waiting for an optimizer that steps after several iterations."""
    wrappers = [one for _, one in wrapper.items()] if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return all(one.should_update() for one in wrappers)


def end_with_parent():
    """Have the kernel kill this process when the process that started it ends, on Linux.

    A parent that has already ended is noticed by the caller: its id has changed.
    """
    if sys.platform == 'linux':
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_with_torchrun():
    """Have this process end when torchrun has started it and is gone, also after ``kill -9`` of torchrun.

    torchrun may have gone before this function is called, while this process imported its libraries. Where
    tools/dist_*.sh started torchrun, the parent of its parent says so.
    """
    launcher = os.environ.pop(LAUNCHER, None)  # what this process starts has other parents
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        parent = os.getppid()
        end_with_parent()
        if os.getppid() != parent or (launcher and _parent_of(parent) not in (int(launcher), None)):
            sys.exit('torchrun has ended')


def _parent_of(pid):
    """Return the id of the process that started a process: 0 if that has ended, None where it cannot be known."""
    if sys.platform != 'linux':
        return None
    try:
        return int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1])
    except OSError:
        return 0


def guard_data_worker(loader):
    """Have the workers of a DataLoader end with their training, and leave signals to it. Return the loader.

    Launchers and Slurm send a signal to all processes of a job. A data worker that ends takes its training with it.
    """
    if loader.num_workers:
        loader.worker_init_fn = functools.partial(_init_data_worker, loader.worker_init_fn)
    return loader


def _init_data_worker(init, worker_id):
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    _leave_sigterm_to_the_parent()
    end_with_parent()
    if init is not None:
        init(worker_id)


def _leave_sigterm_to_the_parent():
    """Have this data worker end by a SIGTERM of the process that started it, and by no other.

    Python ends the processes that are left at its exit by SIGTERM, and waits for them: a worker that ignores all of
    them would keep its training from ending.
    """
    parent = multiprocessing.parent_process()
    if parent is None or not hasattr(signal, 'sigwaitinfo'):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait():
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
            pass
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, name='SIGTERM of the parent', daemon=True).start()
