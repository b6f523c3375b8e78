"""SIGTERM and SIGUSR1 save a checkpoint at that step, and the resumed training ends as an uninterrupted one does.

More kinds of trainings: `python -m pytest tests/test_engine/test_preemption.py -m sweep`. Kills at random moments:
`python benchmarks/kill_trainings.py FOLDER`.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from mmdefmamba.checkpoints import find_resumable_checkpoint
from mmdefmamba.compat import load_safely
from mmdefmamba.engine.interruption import INTERRUPTED

PICO = Path(__file__).parents[2] / 'configs/classification/defmamba_pico_digits.py'
# 5 steps in an epoch. Augmentations and drop path draw random numbers in each step.
TINY = f"""
_base_ = {str(PICO)!r}
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=(8, 16), depths=(1, 2)), out_indices=1, drop_path_rate=0.3),
    head=dict(in_channels=16),
)
train_dataloader = dict(batch_size=8, dataset=dict(indices=40))
val_dataloader = dict(batch_size=8, dataset=dict(indices=29))
train_cfg = dict(max_epochs=3, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1))
randomness = dict(seed=0)
"""
ITERATIONS = """
train_cfg = dict(_delete_=True, type={!r}, max_iters=15, val_interval=5)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=15)]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5))
log_processor = dict(by_epoch=False)
"""
INFINITE = "train_dataloader = dict(sampler=dict(type='InfiniteSampler'))\n"
SCHEDULES = {
    'EpochBasedTrainLoop': '',
    'ResumableIterBasedTrainLoop': ITERATIONS.format('ResumableIterBasedTrainLoop') + INFINITE,
    'IterBasedTrainLoop': ITERATIONS.format('IterBasedTrainLoop') + INFINITE,
    'average': "custom_hooks = [*_base_.custom_hooks, dict(type='EMAHook', momentum=0.1)]\n",
    'accumulate': "optim_wrapper = dict(accumulative_counts=2)\n",
}  # fmt: skip


class SignalHook(Hook):
    """Send a signal to this process before a training step, or before a batch of the n-th validation."""

    priority = 'HIGHEST'

    def __init__(self, number, iteration=None, validation=None, rank=0):
        self.number, self.iteration, self.validation, self.rank = number, iteration, validation, rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == self.rank and runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), self.number)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == self.rank and (runner.iter, batch_idx) == self.validation:
            os.kill(os.getpid(), self.number)


class BatchNumbers(Hook):
    """Keep the number of each batch within its epoch, and the iteration and the score of each validation."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with open(Path(runner.work_dir) / f'batches{runner.rank}.txt', 'a') as file:
            file.write(f'{runner.iter + 1}:{batch_idx} ')

    def after_val_epoch(self, runner, metrics=None):
        with open(Path(runner.work_dir) / f'batches{runner.rank}.txt', 'a') as file:
            file.write(f'{runner.iter}:{metrics} ')


@pytest.fixture(scope='module')
def train(processes, tmp_path_factory):
    """Return ``run(config, work_dir, *options, hooks, ranks)``, which trains in new processes: their exit statuses."""
    log = tmp_path_factory.mktemp('logs')

    def run(config, work_dir, *options, hooks=(), ranks=1):
        arguments = [config, '--work-dir', work_dir, '--resume', *options]
        hooks = [*hooks, BatchNumbers()]
        if ranks == 1:
            return processes.wait([processes.fork(lambda: processes.train(arguments, hooks), log / 'log.txt')])
        arguments += ['--launcher', 'pytorch']
        return processes.wait(processes.fork_ranks(ranks, lambda rank: processes.train(arguments, hooks), log))

    return run


@pytest.fixture(scope='module')
def whole(train, tmp_path_factory):
    """Return ``get(kind)``: config, work dir and last checkpoint of an uninterrupted training of that kind."""
    made = {}

    def get(kind, ranks=1):
        if (kind, ranks) not in made:
            folder = tmp_path_factory.mktemp(f'{kind}_{ranks}')
            config = folder / 'tiny.py'
            config.write_text(TINY + SCHEDULES[kind])
            assert train(config, folder / 'run', ranks=ranks) == [0] * ranks
            made[kind, ranks] = config, folder / 'run', Path(find_resumable_checkpoint(folder / 'run')).name
        return made[kind, ranks]

    return get


def assert_equal(found, expected, place=''):
    """Compare all that a checkpoint holds, exactly, except times."""
    assert type(found) is type(expected), place
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key in expected:
            if key not in ('time', 'message_hub', 'cfg', 'experiment_name', 'random_states'):
                assert_equal(found[key], expected[key], f'{place}.{key}')
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), place
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), place
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_equal(one, other, f'{place}.{i}')
    else:
        assert found == expected, place


def assert_same_end(work_dir, expected_dir, last):
    """Compare the last and the best checkpoint, the names of all, and the numbers of the batches."""
    names = [sorted(path.name for path in folder.glob('*.pth')) for folder in (work_dir, expected_dir)]
    assert names[0] == names[1]
    assert last in names[0]
    for name in names[0]:
        assert_equal(load_safely(work_dir / name), load_safely(expected_dir / name), name)
    scores = [load_safely(folder / last)['message_hub']['runtime_info'] for folder in (work_dir, expected_dir)]
    assert scores[0].get('best_score') == scores[1].get('best_score')
    assert (work_dir / 'batches0.txt').read_text() == (expected_dir / 'batches0.txt').read_text()


@pytest.mark.parametrize(
    ('kind', 'number', 'iteration', 'saved'),
    [
        ('EpochBasedTrainLoop', signal.SIGTERM, 3, 'interrupted_epoch_0_iter_3.pth'),
        ('EpochBasedTrainLoop', signal.SIGUSR1, 10, 'interrupted_epoch_1_iter_10.pth'),  # the last one of an epoch
        ('ResumableIterBasedTrainLoop', signal.SIGTERM, 7, 'interrupted_iter_7.pth'),
        ('ResumableIterBasedTrainLoop', signal.SIGUSR1, 10, 'iter_10.pth'),  # where a checkpoint is saved anyway
        ('IterBasedTrainLoop', signal.SIGUSR1, 8, 'interrupted_iter_8.pth'),
        pytest.param('average', signal.SIGTERM, 8, 'interrupted_epoch_1_iter_8.pth', marks=pytest.mark.sweep),
        pytest.param('accumulate', signal.SIGTERM, 7, 'interrupted_epoch_1_iter_8.pth', marks=pytest.mark.sweep),
    ],
)
def test_a_signal_saves_at_that_step_and_the_resumed_training_ends_the_same(
    kind, number, iteration, saved, train, whole, tmp_path
):
    config, expected, last = whole(kind)
    run = tmp_path / 'run'
    assert train(config, run, hooks=[SignalHook(number, iteration)]) == [INTERRUPTED]
    assert Path((run / 'last_checkpoint').read_text()).name == saved
    assert Path(find_resumable_checkpoint(run)).name == saved
    meta = load_safely(run / saved)['meta']
    assert meta['iter'] == iteration + (kind == 'accumulate')
    assert train(config, run) == [0]
    assert_same_end(run, expected, last)


@pytest.mark.parametrize(
    'kind',
    [
        'EpochBasedTrainLoop',
        pytest.param('average', marks=pytest.mark.sweep),
        pytest.param('IterBasedTrainLoop', marks=pytest.mark.sweep),
    ],
)
def test_a_signal_during_a_validation_repeats_the_validation(kind, train, whole, tmp_path):
    config, expected, last = whole(kind)
    run = tmp_path / 'run'
    assert train(config, run, hooks=[SignalHook(signal.SIGTERM, validation=(10, 1))]) == [INTERRUPTED]
    # the checkpoint that was saved before the validation is of this step
    saved = load_safely(find_resumable_checkpoint(run))
    assert saved['meta']['iter'] == 10
    assert saved['message_hub']['runtime_info']['scored_iter'] == 5
    assert train(config, run) == [0]
    assert_same_end(run, expected, last)


def test_two_ranks_stop_after_the_same_step_when_one_gets_the_signal(train, whole, tmp_path):
    config, expected, last = whole('EpochBasedTrainLoop', ranks=2)
    run = tmp_path / 'run'
    hooks = [SignalHook(signal.SIGUSR1, 4, rank=1)]
    assert train(config, run, hooks=hooks, ranks=2) == [INTERRUPTED] * 2
    hooks = [SignalHook(signal.SIGTERM, validation=(6, 0), rank=1)]
    assert train(config, run, hooks=hooks, ranks=2) == [INTERRUPTED] * 2
    assert train(config, run, ranks=2) == [0, 0]
    assert_same_end(run, expected, last)


def test_interrupted_checkpoints_follow_one_another_and_are_replaced(train, whole, tmp_path):
    config, expected, last = whole('EpochBasedTrainLoop')
    run = tmp_path / 'run'
    for iteration, names in ((2, ['interrupted_epoch_0_iter_2.pth']), (4, ['interrupted_epoch_0_iter_4.pth'])):
        assert train(config, run, hooks=[SignalHook(signal.SIGTERM, iteration)]) == [INTERRUPTED]
        assert sorted(path.name for path in run.glob('*.pth')) == names
    # without the note of the last checkpoint, names decide
    (run / 'last_checkpoint').unlink()
    assert Path(find_resumable_checkpoint(run)).name == names[0]
    assert train(config, run) == [0]
    assert_same_end(run, expected, last)


def test_a_resumed_epoch_goes_on_behind_the_same_images_with_another_batch(train, whole, tmp_path):
    config, *_ = whole('EpochBasedTrainLoop')
    run = tmp_path / 'run'
    assert train(config, run, hooks=[SignalHook(signal.SIGTERM, 7)]) == [INTERRUPTED]  # 2 of 5 batches of 8
    assert train(config, run, '--cfg-options', 'train_dataloader.batch_size=4') == [0]
    done = re.findall(r'\d+:\d+ ', (run / 'batches0.txt').read_text())
    assert done[7:9] == ['15:4 ', '16:5 ']  # one epoch of 10 batches, and 4 batches of 4 images
    assert done[-1] == '30:9 '


LEFT_AT_EXIT = """
import os, signal, sys, time
import torch
from mmdefmamba.engine.interruption import guard_data_worker

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return i

if __name__ == '__main__':
    loader = torch.utils.data.DataLoader(
        Data(), num_workers=1, persistent_workers=True, multiprocessing_context=sys.argv[1])
    batches = iter(guard_data_worker(loader))
    next(batches)
    [worker] = batches._workers
    if not os.fork():  # any other process
        os.kill(worker.pid, signal.SIGTERM)
        os._exit(0)
    os.wait()
    time.sleep(0.5)
    print(worker.is_alive(), flush=True)
    keep = sys.modules['torch'].keep = batches  # alive until the very end
"""


@pytest.mark.parametrize('start', ['fork', 'spawn'])
def test_a_data_worker_outlives_the_sigterm_of_others_and_ends_by_that_of_its_parent(start, tmp_path):
    (tmp_path / 'script.py').write_text(LEFT_AT_EXIT)
    process = [sys.executable, str(tmp_path / 'script.py'), start]
    done = subprocess.run(
        process, stdout=subprocess.PIPE, text=True, timeout=300, env=os.environ | {'OMP_NUM_THREADS': '1'}
    )
    assert (done.returncode, done.stdout.split()[-1]) == (0, 'True')
