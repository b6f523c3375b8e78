"""The memory of a long training does not grow, and no process is left after it."""

import gc
import os
import signal
import time
from pathlib import Path

import torch
from mmengine.hooks import Hook

from mmdefmamba.models import DefMamba
from mmdefmamba.scans import SCANS
from mmdefmamba.scans import base as scans_base

PICO = Path(__file__).parents[2] / 'configs/classification/defmamba_pico_digits.py'
QUIET = ['--no-validate', '--cfg-options', 'default_hooks.checkpoint.interval=1000', 'randomness.seed=0']


class Memory(Hook):
    """A hook that notes the memory of the process and its number of tensors in each ``every``-th iteration."""

    def __init__(self, every, note):
        self.every, self.note, self.lines = every, note, []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if (runner.iter + 1) % self.every == 0:
            gc.collect()
            tensors = sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())
            resident = int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGESIZE')
            self.lines.append(f'{runner.iter + 1} {resident} {tensors}')
            self.note.write_text('\n'.join(self.lines))


def test_training_memory_does_not_grow(processes, request, tmp_path):
    """The pico model is trained for a few steps by default; ``--steps 2000`` is the long run."""
    steps = request.config.getoption('--steps') or 48
    note = tmp_path / 'memory.txt'
    options = ['train_dataloader.batch_size=2', 'train_dataloader.drop_last=True']
    options.append(f'train_cfg.max_epochs={-(-steps // (1437 // 2))}')
    if steps < 1437 // 2:
        options.append(f'train_dataloader.dataset.indices={steps * 2}')
    arguments = [PICO, '--work-dir', tmp_path / 'run', *QUIET, *options]
    child = processes.fork(
        lambda: processes.train(arguments, [Memory(max(1, steps // 12), note)]), tmp_path / 'log.txt'
    )
    assert processes.wait([child], 3600) == [0]
    rows = [[int(word) for word in line.split()] for line in note.read_text().splitlines()]
    print('step, MiB, tensors:', [(step, round(resident / 2**20, 1), tensors) for step, resident, tensors in rows])
    assert len({tensors for _, _, tensors in rows[1:]}) == 1
    # the allocator returns some MiB and takes them again, so the lowest values of both halves are compared
    early, late = rows[1 : len(rows) // 2], rows[len(rows) // 2 :]
    assert min(row[1] for row in late) - min(row[1] for row in early) < 2**20


def test_number_of_cached_orders_is_limited(monkeypatch):
    monkeypatch.setattr(scans_base, 'MAX_CACHED_ORDERS', 3)
    static = [name for name, scan in SCANS.module_dict.items() if issubclass(scan, scans_base.StaticScan)]
    model = DefMamba(dict(embed_dims=(4,), depths=(1,)), out_indices=0, scans=(*static, 'deformable')).eval()
    kept = []
    with torch.no_grad():
        for side in range(1, 9):
            model(torch.zeros(1, 3, 4 * side, 8))
            caches = [getattr(scan, '_cached_orders', {}) for scan in model.stages[0][0].dssm.scans]
            kept.append(sum(len(cache) for cache in caches))
    assert kept == [len(static) * min(count, 3) for count in range(1, 9)]


def test_data_workers_end_with_their_training(processes, tmp_path):
    """They end even if a batch waits to be read: two batches of 64 images fill the pipe to the training."""
    options = ['train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True']
    arguments = [PICO, '--work-dir', tmp_path / 'run', *QUIET, *options]
    log = tmp_path / 'log.txt'
    child = processes.fork(lambda: processes.train(arguments), log)
    try:
        workers = processes.wait_until(lambda: len(children_of(child)) >= 2 and children_of(child))
        processes.wait_until(lambda: 'Epoch(train)' in log.read_text())  # so that batches are being sent
    finally:
        os.kill(child, signal.SIGKILL)
    assert processes.wait([child]) == [-signal.SIGKILL]
    begin = time.monotonic()
    processes.wait_until(lambda: not any(is_running(worker) for worker in workers))
    passed = time.monotonic() - begin
    print(f'workers ended {passed:.1f} s after their training')
    assert passed < 30


def status_of(process):
    """Return the state and the parent of a process, or None if it does not exist any more."""
    try:
        words = Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return None
    return words[0], int(words[1])


def children_of(process):
    every = [int(path.name) for path in Path('/proc').glob('[0-9]*')]
    return [other for other in every if (status_of(other) or ('', 0))[1] == process]


def is_running(process):
    # a process that has ended is a zombie until its new parent asks for its status
    return (status_of(process) or 'Z')[0] not in 'ZX'
