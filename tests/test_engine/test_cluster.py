"""Processes that start together agree on what they do, or all of them stop and say who differs."""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from mmdefmamba.cli import train as train_tool
from mmdefmamba.cli.start import resume_after_restart
from mmdefmamba.cli.torchrun import check_address
from mmdefmamba.compat import load_safely
from mmdefmamba.engine.agreement import checksum, plan
from mmdefmamba.engine.distributed import has_rendezvous
from mmdefmamba.engine.rendezvous import START_TIMEOUT, Rendezvous, use_reachable_interface
from mmdefmamba.engine.work_dir_lock import NAME, WorkDirLock

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PICO = ROOT / 'configs/classification/defmamba_pico_digits.py'
TINY = f"""
_base_ = {str(PICO)!r}
custom_imports = dict(imports=['mmdefmamba', 'lose_rank'])
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=(8, 16), depths=(1, 1)), out_indices=1, drop_path_rate=0.0),
    head=dict(in_channels=16),
)
train_dataloader = dict(batch_size=8, dataset=dict(indices=32))
val_cfg = val_dataloader = val_evaluator = None
train_cfg = dict(max_epochs=2)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=-1))
randomness = dict(seed=0)
"""
HOST = socket.gethostname()


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    sys.path.insert(0, str(HERE))  # for the hooks of lose_rank.py
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    path.write_text(TINY)
    yield path
    sys.path.remove(str(HERE))


@pytest.fixture(scope='module')
def run_ranks(processes):
    """Return ``run(folder, *arguments of each rank)``, which runs tools/train.py in processes: statuses and logs."""

    def run(folder, *arguments, before=lambda rank: None):
        def work(rank):
            before(rank)
            train_tool.main([*map(str, arguments[rank]), '--launcher', 'pytorch'])

        begin = time.monotonic()
        statuses = processes.wait(processes.fork_ranks(len(arguments), work, folder), 120)
        logs = [(folder / f'rank{rank}.txt').read_text() for rank in range(len(arguments))]
        return statuses, logs, time.monotonic() - begin

    return run


@pytest.fixture(scope='module')
def trained(run_ranks, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    statuses, logs, _ = run_ranks(folder, *[[config, '--work-dir', folder / 'run']] * 2)
    assert statuses == [0, 0], logs
    return folder / 'run'


def change(path):
    """Change one weight of a checkpoint. The file keeps its name, and its size."""
    content = torch.load(path, weights_only=False)
    content['state_dict']['head.fc.bias'][0] += 1
    torch.save(content, path)


def no_checkpoints(run):
    for path in run.glob('*.pth'):
        path.unlink()


def other_checkpoint(run):
    (run / 'epoch_2.pth').unlink()


def other_content(run):
    change(run / 'epoch_2.pth')


def damaged(run):
    for path in run.glob('*.pth'):
        os.truncate(path, 1000)


@pytest.mark.parametrize(
    ('spoil', 'rank_0', 'rank_1'),
    [
        (no_checkpoints, 'resumes epoch_2.pth', 'no file: a new start'),
        (other_checkpoint, 'resumes epoch_2.pth', 'resumes epoch_1.pth'),
        (other_content, 'resumes epoch_2.pth, content', 'resumes epoch_2.pth, content'),
        (damaged, None, 'all checkpoints in .* are damaged'),
    ],
)
def test_ranks_that_would_resume_from_different_checkpoints_all_stop(
    spoil, rank_0, rank_1, run_ranks, config, trained, tmp_path
):
    runs = [shutil.copytree(trained, tmp_path / name) for name in ('node_0', 'node_1')]
    for run in runs:
        (run / 'last_checkpoint').unlink()
    spoil(runs[1])
    before = {path: path.read_bytes() for run in runs for path in run.glob('*.pth')}
    lines = [[config, '--work-dir', run, '--resume'] for run in runs]
    statuses, logs, seconds = run_ranks(tmp_path / 'logs', *lines)
    assert statuses == [1, 1]
    for rank, log in enumerate(logs):
        if rank_0:
            assert re.search(rf'rank 0 on {HOST}: {rank_0}.*; rank 1 on {HOST}: {rank_1}', log), log
        elif rank == 0:
            assert re.search(rf'1 of 2 processes cannot start. rank 1 on {HOST}: RuntimeError: .*{rank_1}', log), log
        else:
            assert re.search(rank_1, log), log
    assert {path: path.read_bytes() for run in runs for path in run.glob('*.pth')} == before
    assert seconds < 30


@pytest.mark.parametrize(
    ('options', 'what'),
    [
        (['load_from={run}/epoch_1.pth'], 'starts from: .* loads epoch_1.pth'),
        (
            ['model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint={run}/epoch_1.pth'],
            'init_cfg',
        ),
        (['optim_wrapper.optimizer.lr=0.5'], 'optim_wrapper.optimizer.lr: the processes have different config'),
        (['load_from={run}/nowhere.pth'], 'FileNotFoundError: load_from'),
    ],
)
def test_ranks_with_different_weights_or_configs_all_stop(options, what, run_ranks, config, trained, tmp_path):
    options = [option.format(run=trained) for option in options]
    lines = [[config, '--work-dir', tmp_path / 'run']] * 2
    lines[1] = [*lines[1], '--cfg-options', *options]
    statuses, logs, _ = run_ranks(tmp_path / 'logs', *lines)
    assert statuses == [1, 1]
    assert all(re.search(what, log) for log in logs), logs
    assert f'rank 1 on {HOST}' in logs[0]


def test_machines_may_have_their_data_in_different_places(run_ranks, config, tmp_path):
    lines = []
    for rank in range(2):
        path = tmp_path / str(rank) / 'tiny.py'
        path.parent.mkdir()
        path.write_text(f'_base_ = {str(config)!r}\nmy_folder = "/scratch/{rank}"\ntrain_cfg = dict(max_epochs=1)\n')
        lines.append([path, '--work-dir', tmp_path / 'run'])
    statuses, logs, _ = run_ranks(tmp_path / 'logs', *lines)
    assert statuses == [0, 0], logs
    assert f'different paths: my_folder is rank 0 on {HOST}: /scratch/0; rank 1 on {HOST}: /scratch/1' in logs[0]


def test_processes_of_open_mpi_call_the_roll(processes, free_port, tmp_path, monkeypatch):
    def work():
        meeting = Rendezvous('mpi', timeout=60)
        records = meeting.call_roll(dict(rank=meeting.rank))
        print([one['rank'] for one in records], [os.environ[name] for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')])
        meeting.leave_together()

    port, ranks = str(free_port()), range(2)
    children = []
    for rank in ranks:
        of_mpi = {f'OMPI_COMM_WORLD_{name}': value for name, value in (('RANK', str(rank)), ('SIZE', '2'))}
        log = tmp_path / f'{rank}.txt'
        environment = dict(of_mpi, OMPI_COMM_WORLD_LOCAL_RANK=str(rank), MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
        children.append(processes.fork(work, log, **environment))
    assert processes.wait(children, 60) == [0, 0]
    assert [(tmp_path / f'{rank}.txt').read_text() for rank in ranks] == [
        f"[0, 1] ['{rank}', '2', '{rank}']\n" for rank in ranks
    ]
    monkeypatch.delenv('MASTER_ADDR', raising=False)
    with pytest.raises(ValueError, match='--launcher mpi needs MASTER_ADDR'):
        Rendezvous('mpi')
    monkeypatch.setattr('mmdefmamba.engine.distributed.get_device', lambda: 'cuda')
    assert has_rendezvous('mpi')


class ChangeWeight(Hook):
    def before_train(self, runner):
        if runner.rank == 1:
            next(runner.model.parameters()).data[0] += 1


def test_a_rank_whose_weights_differ_after_loading_stops_all(run_ranks, config, tmp_path):
    def before(rank):
        build = train_tool.cli.build_runner

        def with_hook(cfg):
            runner = build(cfg)
            runner.register_hook(ChangeWeight())
            return runner

        train_tool.cli.build_runner = with_hook

    statuses, logs, _ = run_ranks(tmp_path / 'logs', *[[config, '--work-dir', tmp_path / 'run']] * 2, before=before)
    assert statuses == [1, 1]
    assert all('parameters_and_buffers: the processes differ before the first step' in log for log in logs), logs
    assert 'Epoch(train)' not in logs[0]


def test_ranks_end_with_the_reason_when_another_fails_before_the_first_step(run_ranks, config, tmp_path):
    def before(rank):
        def fail(cfg):
            time.sleep(2)  # the others wait in an exchange by now
            raise OSError(errno.EIO, 'the data disk of this machine')

        if rank == 1:
            train_tool.cli.build_runner = fail

    lines = [[config, '--work-dir', tmp_path / 'run']] * 2
    statuses, logs, seconds = run_ranks(tmp_path / 'logs', *lines, before=before)
    assert statuses == [1, 1]
    assert f'because another process failed. rank 1 on {HOST}: OSError: [Errno 5] the data disk' in logs[0]
    assert seconds < 30


@pytest.mark.parametrize('alone', [0, 1])
def test_a_rank_that_waits_alone_says_who_is_missing_and_ends_in_time(alone, processes, config, free_port, tmp_path):
    environment = dict(RANK=str(alone), LOCAL_RANK='0', WORLD_SIZE='2', MASTER_ADDR='127.0.0.1')
    environment |= {'MASTER_PORT': str(free_port()), START_TIMEOUT: '2'}
    arguments = [str(config), '--work-dir', str(tmp_path / 'run'), '--launcher', 'pytorch']
    begin = time.monotonic()
    work = lambda: train_tool.main(arguments)  # noqa: E731
    assert processes.wait([processes.fork(work, tmp_path / 'log.txt', **environment)], 60) == [1]
    assert time.monotonic() - begin < 30
    log = (tmp_path / 'log.txt').read_text()
    expected = (
        ['rank 1 of 2 did not start within 2 s', f'started: {HOST}'] if alone == 0 else ['did not answer within 2 s']
    )
    assert all(each in log for each in expected), log


def test_checksum_sees_each_value_and_each_name():
    state = {'a': torch.arange(6.0), 'b': [torch.zeros(0), {'step': torch.tensor(1.0), 'lr': 0.1}]}
    same = {'a': torch.arange(6.0).clone(), 'b': [torch.zeros(0), {'step': torch.tensor(1.0), 'lr': 0.1}]}
    assert checksum(state) == checksum(same)
    others = [{**state, 'a': torch.arange(6.0) + 1e-6}, {**state, 'c': 0}, {'A': state['a'], 'b': state['b']}]
    others.append({**state, 'b': [torch.zeros(0), {'step': torch.tensor(1.0), 'lr': 0.2}]})
    assert len({checksum(other) for other in [state, *others]}) == 5


# The work dir


def hold(work_dir, ready, **kwargs):
    with WorkDirLock(work_dir, **kwargs):
        ready.write_text('')
        time.sleep(600)


@pytest.fixture
def holder(processes, tmp_path):
    """Return the id of a process that holds the lock of tmp_path/run."""
    child = processes.fork(lambda: hold(tmp_path / 'run', tmp_path / 'ready'), tmp_path / 'holder.txt')
    processes.wait_until((tmp_path / 'ready').exists)
    yield child
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


def test_a_second_training_in_a_work_dir_is_refused_with_the_name_of_the_first(processes, holder, config, tmp_path):
    arguments = [str(config), '--work-dir', str(tmp_path / 'run')]
    second = processes.fork(lambda: train_tool.main(arguments), tmp_path / 'second.txt')
    assert processes.wait([second]) == [1]
    log = (tmp_path / 'second.txt').read_text()
    assert f'a training is running in {tmp_path}/run: process {holder} on {HOST}. Two trainings' in log
    assert os.listdir(tmp_path / 'run') == [NAME]
    # the lock does not outlive its process
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    assert (tmp_path / 'run' / NAME).exists()
    with WorkDirLock(tmp_path / 'run'):
        assert json.loads((tmp_path / 'run' / NAME).read_text())['pid'] == os.getpid()
        with pytest.raises(RuntimeError, match=f'process {os.getpid()} on {HOST}'), WorkDirLock(tmp_path / 'run'):
            pass
    assert os.listdir(tmp_path / 'run') == []


def test_without_locks_of_the_file_system_the_process_decides(holder, tmp_path, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'lockf', no_locks)
    with pytest.raises(RuntimeError, match=f'process {holder} on {HOST}'), WorkDirLock(tmp_path / 'run'):
        pass
    # another process has the id of the one that has ended
    path = tmp_path / 'run' / NAME
    path.write_text(path.read_text().replace('"started": ', '"started": 1'))
    with WorkDirLock(tmp_path / 'run'):
        pass


def of_another_machine(path, beat, age=0):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(dict(host='other', pid=7, boot='x', started=1, beat=beat)))
    os.utime(path, (time.time() - age, time.time() - age))


def test_a_lock_of_another_machine_counts_while_that_machine_writes(tmp_path):
    path = tmp_path / 'run' / NAME
    of_another_machine(path, beat=3, age=100)  # of a job that has ended long ago
    with WorkDirLock(tmp_path / 'run', silence=1):
        pass
    of_another_machine(path, beat=3)  # has ended just now, and was queued again
    begin = time.monotonic()
    with WorkDirLock(tmp_path / 'run', silence=1):
        assert 1 <= time.monotonic() - begin < 5
    of_another_machine(path, beat=3)
    writer = threading.Timer(0.3, of_another_machine, (path, 4))
    writer.start()
    with pytest.raises(RuntimeError, match='process 7 on other'), WorkDirLock(tmp_path / 'run', silence=2):
        pass
    writer.join()


def test_the_averages_of_an_authors_file_are_another_start_than_its_raw_weights(tmp_path):
    (tmp_path / 'theirs.pth').write_bytes(b'weights')
    raw, averages = (
        plan(Config(dict(load_from=f'released://{tmp_path}/theirs.pth{end}')))['starts from'] for end in ('', '?ema')
    )
    assert raw.startswith('loads theirs.pth, content ')
    assert averages == f'{raw}, averages'


def test_a_holder_writes_signs_of_life(tmp_path, processes):
    with WorkDirLock(tmp_path / 'run', beat=0.05):
        path = tmp_path / 'run' / NAME
        processes.wait_until(lambda: json.loads(path.read_text())['beat'] > 2, 10)


def test_a_disk_that_is_full_before_the_start_is_named(tmp_path, little_room):
    message = rf'{tmp_path}/run/.room.*could not be written before the training started.*choose another --work-dir'
    with pytest.raises(OSError, match=message) as raised, little_room(), WorkDirLock(tmp_path / 'run'):
        pass
    assert raised.value.errno == errno.EFBIG
    assert os.listdir(tmp_path / 'run') == []


def test_a_full_file_system_is_named_with_its_room(tmp_path):
    folder = tmp_path / 'small'
    folder.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f'no file system can be mounted here: {mounted.stderr.decode().strip()}')
    try:
        with pytest.raises(OSError, match=r'small/run/.room.*No space left on device \(0.0\d MiB are free\)'):
            WorkDirLock(folder / 'run').__enter__()
        with open(folder / 'filler', 'wb') as file, contextlib.suppress(OSError):
            file.write(bytes(2**20))
        with pytest.raises(OSError, match=r'small/.*No space left on device \(0.00 MiB are free\)'):
            WorkDirLock(folder / 'other').__enter__()
    finally:
        subprocess.run(['umount', str(folder)], check=True)


def test_a_work_dir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match=r'file/run.*Not a directory: choose another --work-dir'):
        WorkDirLock(tmp_path / 'file/run').__enter__()


# Launchers


@pytest.fixture
def launch(free_port, tmp_path, processes):
    """Return ``start(*arguments, **environment)``, which starts tools/dist_train.sh; it is killed at last."""
    started = []

    def start(*arguments, **environment):
        env = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PORT=str(free_port()), **environment)
        env['PYTHON'], env['PYTHONPATH'] = sys.executable, os.pathsep.join([str(HERE), str(ROOT)])
        with open(tmp_path / 'log.txt', 'a') as log:
            command = [str(part) for part in (ROOT / 'tools/dist_train.sh', *arguments)]
            started.append(subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def descendants(pid):
    found = []
    for path in Path(f'/proc/{pid}/task').glob('*/children'):
        for child in map(int, path.read_text().split()):
            found += [child, *descendants(child)]
    return found


def is_alive(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


@pytest.fixture
def endless(config, tmp_path):
    """Return the arguments of a training that saves no checkpoint of its own."""
    arguments = [config, 1, '--work-dir', tmp_path / 'run', '--cfg-options', 'train_dataloader.num_workers=1']
    return [*arguments, 'train_cfg.max_epochs=1000', 'default_hooks.checkpoint.interval=1000']


def test_a_signal_to_all_processes_reaches_the_training_once(launch, processes, endless, tmp_path):
    """Slurm sends SIGTERM to all processes of a job, data workers and torchrun included."""
    training, log = launch(*endless), tmp_path / 'log.txt'
    processes.wait_until(lambda: 'start of the training' in log.read_text())
    processes.wait_until(lambda: len(descendants(training.pid)) == 3)
    time.sleep(1)
    for process in [training.pid, *descendants(training.pid)]:
        os.kill(process, signal.SIGTERM)
    assert training.wait(timeout=60) == 75, log.read_text()[-3000:]
    (saved,) = (tmp_path / 'run').glob('*.pth')
    assert re.fullmatch(r'interrupted_epoch_\d+_iter_\d+.pth', saved.name)
    assert 'Traceback' not in log.read_text()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_launcher_reaches_the_training(number, free_port, processes, tmp_path):
    """A program stands for the training, since only the launcher and torchrun are tested here."""
    program, log = tmp_path / 'training.py', tmp_path / 'log.txt'
    program.write_text(
        'import os, pathlib, signal, sys\n'
        'def end(number, frame):\n'
        '    pathlib.Path(os.environ["MMDEFMAMBA_INTERRUPTED_NOTE"]).touch()\n'
        '    print("signal", number, flush=True)\n'
        '    sys.exit(0)\n'
        f'signal.signal({int(number)}, end)\n'
        'print("start", flush=True)\n'
        'while True:\n'
        '    signal.pause()\n'
    )
    options = ['--nproc_per_node=1', f'--master_port={free_port()}', str(program)]
    with open(log, 'w') as file:
        command = [sys.executable, '-m', 'mmdefmamba.cli.torchrun', *options]
        launcher = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
    try:
        processes.wait_until(lambda: 'start' in log.read_text())
        launcher.send_signal(number)
        assert launcher.wait(timeout=60) == 75, log.read_text()
    finally:
        launcher.kill()
    assert log.read_text().count(f'signal {int(number)}') == 1
    assert 'Traceback' not in log.read_text()


def test_a_process_that_torchrun_left_behind_while_it_imported_ends_before_it_trains(tmp_path, processes):
    """A shell stands for torchrun, which ends at once; the process calls the function only after that."""
    log = tmp_path / 'log.txt'
    program = (
        'import os, sys, time\n'
        'from mmdefmamba.engine.interruption import end_with_torchrun\n'
        'while os.getppid() == int(os.environ["TORCHRUN"]):\n'
        '    time.sleep(0.05)\n'
        'end_with_torchrun()\n'
        'print("it trains")\n'
    )
    environment = {**os.environ, 'TORCHELASTIC_RUN_ID': 'none', 'MMDEFMAMBA_LAUNCHER_PID': str(os.getpid())}
    with open(log, 'w') as file:
        command = ['sh', '-c', 'TORCHRUN=$$ "$0" -c "$1" & echo', sys.executable, program]
        subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file, timeout=60, check=True)
    processes.wait_until(lambda: 'torchrun has ended' in log.read_text(), 60)
    assert 'it trains' not in log.read_text()


def test_nothing_outlives_torchrun(launch, processes, endless, tmp_path):
    training, log = launch(*endless), tmp_path / 'log.txt'
    processes.wait_until(lambda: 'start of the training' in log.read_text())
    processes.wait_until(lambda: len(descendants(training.pid)) == 3)  # torchrun, the training, and its data worker
    all_of_them = descendants(training.pid)
    os.kill(all_of_them[0], signal.SIGKILL)
    assert training.wait(timeout=60) == 137
    processes.wait_until(lambda: not any(is_alive(pid) for pid in all_of_them), 20)


def test_torchrun_starts_a_lost_training_again_from_its_own_last_checkpoint(launch, config, trained, tmp_path):
    """The one that an older training has left in the work dir is not resumed, since the user has not asked for it."""
    run = shutil.copytree(trained, tmp_path / 'run')
    for path in run.glob('*.pth'):
        os.utime(path, (1, 1))
    # rank 0 is killed two steps after the first checkpoint
    path = tmp_path / 'lost.py'
    path.write_text(f'_base_ = {str(config)!r}\ncustom_hooks = [dict(type="LoseOnce", iterations=(6,))]\n')
    training = launch(path, 1, '--work-dir', run, MAX_RESTARTS='1')
    assert training.wait(timeout=120) == 0
    log = (tmp_path / 'log.txt').read_text()
    assert f'goes on from {run}/epoch_1.pth' in log
    meta = load_safely(run / 'epoch_2.pth')['meta']
    assert (meta['epoch'], meta['iter']) == (2, 8)


def test_a_training_that_was_lost_before_its_first_checkpoint_starts_anew(trained, tmp_path, told):
    cfg = Config(dict(work_dir=str(shutil.copytree(trained, tmp_path / 'run'))))
    (tmp_path / 'run/last_checkpoint').unlink()  # it names the folder that was copied
    for path in (tmp_path / 'run').glob('*.pth'):
        os.utime(path, (1, 1))
    resume_after_restart(cfg)
    assert cfg.to_dict() == dict(work_dir=str(tmp_path / 'run'))
    assert told == [('WARNING', 'torchrun has started this training again; it has not saved a checkpoint yet')]
    os.utime(tmp_path / 'run/epoch_2.pth')
    resume_after_restart(cfg)
    assert cfg.to_dict() == dict(
        work_dir=str(tmp_path / 'run'), resume=True, load_from=str(tmp_path / 'run/epoch_2.pth')
    )


@pytest.mark.parametrize(
    ('environment', 'message'),
    [
        (dict(NNODES='2'), 'NNODES=2 needs MASTER_ADDR'),
        (
            dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='localhost'),
            'MASTER_ADDR=localhost is 127.0.0.1 on .*this machine',
        ),
        (dict(NNODES='2', MASTER_ADDR='no.such.host.invalid'), 'MASTER_ADDR=no.such.host.invalid is not known'),
    ],
)
def test_an_address_that_other_machines_cannot_reach_is_refused(environment, message):
    with pytest.raises(SystemExit, match=message):
        check_address(environment)


def test_an_address_is_not_looked_at_on_one_machine():
    check_address(dict(NNODES='1'))
    check_address(dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='127.0.0.1'))  # two "machines" on one, to debug


def test_gloo_leaves_the_loopback_address_of_the_host_name(monkeypatch):
    monkeypatch.delenv('GLOO_SOCKET_IFNAME', raising=False)
    monkeypatch.setattr(socket, 'gethostbyname', lambda name: '127.0.1.1')
    with pytest.raises(ValueError, match='its loopback address, which other machines cannot reach'):
        use_reachable_interface('127.0.0.1')
    monkeypatch.setenv('GLOO_SOCKET_IFNAME', 'chosen')
    assert use_reachable_interface('127.0.0.1') is None
    assert os.environ['GLOO_SOCKET_IFNAME'] == 'chosen'
