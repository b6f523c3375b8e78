"""A training that is killed and resumed ends with the same weights as one that was not interrupted."""

import errno
import os
import random
import shutil
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from mmengine.hooks import CheckpointHook, Hook

from mmdefmamba.checkpoints import SafeCheckpointHook, find_resumable_checkpoint
from mmdefmamba.checkpoints import saving as safe_checkpoints
from mmdefmamba.checkpoints.saving import AtomicLocalBackend
from mmdefmamba.compat import load_safely
from mmdefmamba.engine.interruption import interruptible

PICO = Path(__file__).parents[2] / 'configs/classification/defmamba_pico_digits.py'
# Augmentations and drop path draw random numbers in each step. One checkpoint is kept at a time.
TINY = f"""
_base_ = {str(PICO)!r}
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=(8, 16), depths=(1, 2)), out_indices=1, drop_path_rate=0.3),
    head=dict(in_channels=16),
)
train_dataloader = dict(batch_size=16, dataset=dict(indices=64))
val_cfg = val_dataloader = val_evaluator = None
"""
BY_EPOCH = """
train_cfg = dict(max_epochs=3)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1))
"""
BY_ITERATION = """
train_cfg = dict(_delete_=True, type='ResumableIterBasedTrainLoop', max_iters=12)
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=12)]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=3, max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
"""


def write_config(folder, schedule):
    path = folder / 'tiny.py'
    path.write_text(TINY + schedule)
    return path


class KillHook(Hook):
    """A hook that kills this process with SIGKILL before iteration ``step``, counted from the start of the process."""

    def __init__(self, step):
        self.steps_left = step

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.steps_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps_left -= 1


@pytest.fixture(scope='module')
def train(processes, tmp_path_factory):
    """Return ``run(arguments)``, which does the work of tools/train.py in a new process.

    It returns the exit status, which is -9 if the process was killed. The process is killed before its iteration
    ``kill_at_step``, or in the middle of its checkpoint write number ``kill_in_write``; both count from 0.
    """
    log = tmp_path_factory.mktemp('train') / 'log.txt'

    def run(arguments, kill_at_step=None, kill_in_write=None):
        def work():
            if kill_in_write is not None:
                _kill_in_write(kill_in_write)
            processes.train(arguments, [] if kill_at_step is None else [KillHook(kill_at_step)])

        (status,) = processes.wait([processes.fork(work, log)])
        if status not in (0, -signal.SIGKILL):
            print(log.read_text())
        return status

    return run


def _kill_in_write(number):
    """Kill the process in one write, when half of the bytes are on the disk."""
    replace, writes = os.replace, iter(range(10**6))

    def killing_replace(source, target):
        if str(target).endswith('.pth') and next(writes) == number:
            os.truncate(source, os.path.getsize(source) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    safe_checkpoints.os.replace = killing_replace


def saved_weights(work_dir, name):
    return load_safely(work_dir / name)['state_dict']


def train_killed(train, arguments, chance, kills):
    """Train with ``--resume`` until the training ends, and kill it at random steps and in random writes.

    Args:
        train: the fixture.
        arguments: the command line.
        chance: a ``random.Random``.
        kills: how often it is killed at most.

    Returns:
        How often it was killed.
    """
    for killed in range(kills):
        where = (
            {'kill_in_write': chance.randrange(2)}
            if chance.random() < 0.4
            else {'kill_at_step': chance.randrange(1, 8)}
        )
        status = train([*arguments, '--resume'], **where)
        if status == 0:
            return killed
        assert status == -signal.SIGKILL, f'exit status {status}'
    assert train([*arguments, '--resume']) == 0
    return kills


def saved(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


@pytest.mark.parametrize(
    ('schedule', 'last'), [(BY_EPOCH, 'epoch_3.pth'), (BY_ITERATION, 'iter_12.pth')], ids=['epochs', 'iterations']
)
def test_training_killed_repeatedly_ends_with_the_same_weights(train, schedule, last, tmp_path, request):
    config = write_config(tmp_path, schedule)
    assert train([config, '--work-dir', tmp_path / 'whole']) == 0
    expected = saved_weights(tmp_path / 'whole', last)
    chance, left = random.Random(0), request.config.getoption('--kills')
    while left > 0:
        work_dir = tmp_path / f'killed_{left}'
        left -= train_killed(train, [config, '--work-dir', work_dir], chance, left)
        weights = saved_weights(work_dir, last)
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
        assert saved(work_dir) == [last]


@pytest.fixture(scope='module')
def three_epochs(train, tmp_path_factory):
    """Return the folder of a run with all of its three checkpoints."""
    folder = tmp_path_factory.mktemp('three')
    config = write_config(folder, BY_EPOCH)
    options = ['--cfg-options', 'default_hooks.checkpoint.max_keep_ckpts=-1']
    assert train([config, '--work-dir', folder / 'run', *options]) == 0
    return folder / 'run'


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path):
    """Change one bit of the longest record. Much of a small file only fills gaps, where a changed bit is harmless."""
    with zipfile.ZipFile(path) as file:
        record = file.read(max(file.infolist(), key=lambda info: info.file_size))
    content = bytearray(path.read_bytes())
    content[content.index(record) + len(record) // 2] ^= 1
    path.write_bytes(content)


def damage_list_of_contents(path):
    content = bytearray(path.read_bytes())
    content[-35] = 1  # the file now says that it continues on another disk, for which zipfile.is_zipfile can raise
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b'')


@pytest.mark.parametrize('damage', [cut, flip_a_bit, damage_list_of_contents, empty])
def test_damaged_checkpoint_is_skipped_when_resuming(three_epochs, damage, tmp_path, caplog):
    run = shutil.copytree(three_epochs, tmp_path / 'run')
    (run / 'last_checkpoint').write_text(str(run / 'epoch_3.pth'))
    assert find_resumable_checkpoint(run) == str(run / 'epoch_3.pth')
    damage(run / 'epoch_3.pth')
    assert find_resumable_checkpoint(run) == str(run / 'epoch_2.pth')
    damage(run / 'epoch_1.pth')
    damage(run / 'epoch_2.pth')
    with pytest.raises(RuntimeError, match=r'are damaged: epoch_3.pth, epoch_2.pth, epoch_1.pth. Move them away'):
        find_resumable_checkpoint(run)


def test_changed_bit_is_detected_or_harmless(tmp_path):
    path, weights = tmp_path / 'epoch_1.pth', {'bias': torch.zeros(0), 'weight': torch.arange(12.0)}
    torch.save({'state_dict': weights}, path)
    whole, unnoticed = path.read_bytes(), 0
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            find_resumable_checkpoint(tmp_path)
        except RuntimeError:
            continue
        unnoticed += 1
        loaded = saved_weights(tmp_path, 'epoch_1.pth')
        assert loaded.keys() == weights.keys()
        assert all(torch.equal(loaded[name], weights[name]) for name in weights), f'byte {place}'
    assert unnoticed < len(whole) / 2


def test_checkpoint_named_in_last_checkpoint_comes_first(three_epochs, tmp_path):
    run = shutil.copytree(three_epochs, tmp_path / 'run')
    # epoch_3.pth belongs to an older run; if last_checkpoint is empty, the checkpoint with the highest number is used
    (run / 'last_checkpoint').write_text(str(run / 'epoch_2.pth'))
    assert find_resumable_checkpoint(run) == str(run / 'epoch_2.pth')
    cut(run / 'epoch_2.pth')
    assert find_resumable_checkpoint(run) == str(run / 'epoch_1.pth')
    (run / 'last_checkpoint').write_text('')
    assert find_resumable_checkpoint(run) == str(run / 'epoch_3.pth')
    assert find_resumable_checkpoint(tmp_path / 'nowhere') is None


@pytest.mark.parametrize('note', [b'\xff\xfe\x00', b'x' * 5000, b'.', b'nowhere.pth', None])
def test_a_damaged_note_of_the_last_checkpoint_is_ignored(three_epochs, note, tmp_path):
    run = shutil.copytree(three_epochs, tmp_path / 'run')
    (run / 'last_checkpoint').unlink()
    (run / 'last_checkpoint').mkdir() if note is None else (run / 'last_checkpoint').write_bytes(note)
    assert find_resumable_checkpoint(run) == str(run / 'epoch_3.pth')


def test_a_legacy_file_of_torch_save_is_resumed_from(three_epochs, tmp_path):
    """Without zip format, hence without checksums: it is whole if it loads."""
    run = shutil.copytree(three_epochs, tmp_path / 'run')
    (run / 'last_checkpoint').write_text(str(run / 'epoch_3.pth'))
    content = torch.load(run / 'epoch_3.pth', weights_only=False)
    torch.save(content, run / 'epoch_3.pth', _use_new_zipfile_serialization=False)
    assert find_resumable_checkpoint(run) == str(run / 'epoch_3.pth')
    for end in (10, 1000, (run / 'epoch_3.pth').stat().st_size // 2, (run / 'epoch_3.pth').stat().st_size - 100):
        torch.save(content, run / 'epoch_3.pth', _use_new_zipfile_serialization=False)
        os.truncate(run / 'epoch_3.pth', end)
        assert find_resumable_checkpoint(run) == str(run / 'epoch_2.pth'), end


def test_full_disk_error_names_the_file_and_keeps_the_old_one(tmp_path, little_room):
    backend = AtomicLocalBackend()
    backend.put_text('first', tmp_path / 'new/epoch_1.pth')
    message = r'epoch_1.pth \(0.5 MiB\) could not be written.*Make room.*--resume'
    with pytest.raises(OSError, match=message) as raised, little_room():
        backend.put(bytes(2**19), tmp_path / 'new/epoch_1.pth')
    assert raised.value.errno == errno.EFBIG
    assert (tmp_path / 'new/epoch_1.pth').read_text() == 'first'
    assert os.listdir(tmp_path / 'new') == ['epoch_1.pth']


def make_hook(folder, hook=SafeCheckpointHook, **kwargs):
    """Return a hook in the state that it has in a training, and a runner that saves checkpoints or fails to."""

    class Runner:
        epoch = iter = 0
        work_dir = str(folder)
        message_hub = logger = type('', (), dict.fromkeys(('update_info', 'info'), lambda *a: None))()
        message_hub.runtime_info = {}
        fails = False

        def save_checkpoint(self, out_dir, filename, *args, **kwargs):
            assert not self.fails, 'disk full'
            Path(out_dir, filename).write_text('whole')

    hook, runner = hook(max_keep_ckpts=1, **kwargs), Runner()
    hook.before_train(runner)
    return hook, runner


@pytest.mark.parametrize('kind', [SafeCheckpointHook, CheckpointHook])
def test_old_checkpoint_is_removed_only_after_the_new_one_is_written(kind, tmp_path):
    hook, runner = make_hook(tmp_path, kind)
    hook._save_checkpoint(runner)
    runner.epoch = 1
    hook._save_checkpoint(runner)
    assert saved(tmp_path) == ['epoch_2.pth']
    runner.epoch, runner.fails = 2, True
    with pytest.raises(AssertionError, match='disk full'):
        hook._save_checkpoint(runner)
    # MMEngine's own hook has removed the old checkpoint by now; when that changes, ours can be removed
    assert saved(tmp_path) == (['epoch_2.pth'] if kind is SafeCheckpointHook else [])


def test_old_best_checkpoint_is_removed_only_after_the_new_one_is_written(tmp_path):
    hook, runner = make_hook(tmp_path, save_best='score', rule='greater')
    runner.message_hub.get_info = lambda key: 0.5
    for epoch, fails in ((1, False), (2, False), (3, True)):
        runner.epoch, runner.fails = epoch, fails
        runner.message_hub.runtime_info['best_score'] = 0.5
        if fails:
            with pytest.raises(AssertionError, match='disk full'):
                hook._save_best_checkpoint(runner, {'score': 0.5 + epoch})
        else:
            hook._save_best_checkpoint(runner, {'score': 0.5 + epoch})
    assert saved(tmp_path) == ['best_score_epoch_2.pth']
    # a checkpoint that is saved again under the same name, as after a resume, is not removed
    runner.epoch, runner.fails = 2, False
    hook.best_ckpt_path = str(tmp_path / 'best_score_epoch_2.pth')
    hook._save_best_checkpoint(runner, {'score': 9.0})
    assert saved(tmp_path) == ['best_score_epoch_2.pth']


def test_a_signal_whose_end_other_code_catches_before_the_first_step_has_the_documented_status():
    """MMEngine formats the config under a bare ``except``, and raises a SyntaxError there."""
    cfg = dict(custom_hooks=[dict(type='InterruptionHook')])
    with pytest.raises(SystemExit) as ended, interruptible(cfg):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except:  # noqa: E722
            raise SyntaxError('the config cannot be formatted')  # noqa: B904
    assert ended.value.code == 75
    with pytest.raises(ValueError, match='of its own'), interruptible(cfg):
        raise ValueError('of its own')
