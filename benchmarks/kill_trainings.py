"""Kill trainings at random, resume them, and compare their end with a training that was not interrupted, bit for bit.

    python benchmarks/kill_trainings.py FOLDER --kills 50

Each training is started by its tool, as users start it. It is killed at a random moment, or in the middle of the next
write of a checkpoint, by SIGKILL, SIGTERM or SIGUSR1, which goes to one process of the training, to its launcher, to
torchrun or to a data worker. Then the same line with ``--resume`` is started. The kinds of trainings take turns until
the number of kills is reached; each is then finished and compared: last checkpoint with weights, optimizer and
schedules, and the best one where there is one. The exit code is 1 if anything differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torch

from mmdefmamba.checkpoints import find_resumable_checkpoint
from mmdefmamba.compat import load_safely

ROOT = Path(__file__).parents[1]
CLASSIFICATION = """
_base_ = {root!r} + '/configs/classification/defmamba_pico_digits.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=(8, 16), depths=(1, 2)), out_indices=1, drop_path_rate=0.3),
    head=dict(in_channels=16),
)
train_dataloader = dict(batch_size=16, dataset=dict(indices=320))
val_dataloader = dict(batch_size=16, dataset=dict(indices=61))
train_cfg = dict(max_epochs=5, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=2))
randomness = dict(seed=0)
"""
BY_ITERATION = """
train_cfg = dict(_delete_=True, type={loop!r}, max_iters=100, val_interval=25)
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100)]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=15))
log_processor = dict(by_epoch=False)
"""
# Data workers draw random numbers of their own: this training draws none there.
WORKERS = """
train_dataloader = dict(num_workers=1, dataset=dict(pipeline=[_base_.resize, dict(type='PackInputs')]))
"""
DETECTION = """
_base_ = {root!r} + '/configs/detection/mask_rcnn_defmamba_pico_digits.py'
train_dataloader = dict(batch_size=2, dataset=dict(data_root={scenes!r}, indices=20))
val_cfg = val_dataloader = val_evaluator = None
train_cfg = dict(max_epochs=3)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=30)]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
"""
SEGMENTATION = """
_base_ = {root!r} + '/configs/segmentation/upernet_defmamba_pico_digits.py'
train_dataloader = dict(batch_size=2, dataset=dict(data_root={scenes!r}))
val_cfg = val_dataloader = val_evaluator = None
train_cfg = dict(max_iters=36)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=36)]
default_hooks = dict(checkpoint=dict(interval=9, max_keep_ckpts=1))
"""
#: Config and number of processes; 0 means tools/train.py.
KINDS = {
    'epochs': (CLASSIFICATION, 0),
    'epochs, two processes': (CLASSIFICATION, 2),
    'epochs, data workers': (CLASSIFICATION + WORKERS, 1),
    'iterations': (CLASSIFICATION + BY_ITERATION.replace('{loop!r}', "'ResumableIterBasedTrainLoop'"), 2),
    "MMEngine's iterations": (CLASSIFICATION + BY_ITERATION.replace('{loop!r}', "'IterBasedTrainLoop'"), 0),
    'detection': (DETECTION, 0),
    'segmentation': (SEGMENTATION, 1),
}


class Training:
    """A training of one kind: its config, its command line, and the time that it takes."""

    def __init__(self, kind, folder):
        text, self.processes = KINDS[kind]
        self.kind, self.folder = kind, folder / kind.replace(' ', '_').replace(',', '').replace("'", '')
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = self.folder / 'config.py'
        scenes = str(folder / 'scenes') + '/'
        self.config.write_text(text.replace('{root!r}', repr(str(ROOT))).replace('{scenes!r}', repr(scenes)))

    def start(self, work_dir, chance):
        env = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PYTHON=sys.executable)
        env['PYTHONPATH'] = os.pathsep.join([str(ROOT), env.get('PYTHONPATH', '')])
        env['PORT'] = str(chance.randrange(15000, 32000))
        options = ['--work-dir', str(work_dir), '--resume']
        if self.processes:
            command = [str(ROOT / 'tools/dist_train.sh'), str(self.config), str(self.processes), *options]
        else:
            command = [sys.executable, str(ROOT / 'tools/train.py'), str(self.config), *options]
        with open(self.folder / f'{work_dir.name}.log', 'a') as log:
            return subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=self.folder)

    def finish(self, work_dir, chance):
        begin = time.monotonic()
        status = self.start(work_dir, chance).wait(timeout=600)
        if status:
            raise SystemExit(f'{self.kind}: exit status {status}, see {self.folder / work_dir.name}.log')
        self.seconds = time.monotonic() - begin
        return Path(find_resumable_checkpoint(work_dir))


def tree(pid):
    """Return a process and all that it has started: (id, command line)."""
    found = [(pid, Path(f'/proc/{pid}/cmdline').read_bytes().replace(b'\0', b' ').decode())]
    for path in Path(f'/proc/{pid}/task').glob('*/children'):
        for child in path.read_text().split():
            found += tree(int(child))
    return found


def role(processes, place):
    """Return what a process is: the launcher, torchrun, a process of the training, or a data worker."""
    line = processes[place][1]
    if 'cli.torchrun' in line:
        return 'launcher'
    if 'torch.distributed.run' in line:
        return 'torchrun'
    same = [i for i, (_, other) in enumerate(processes) if other == line]
    return 'training' if place == same[0] or 'dist' in line or len(same) == 1 else 'training or data worker'


def kill(process, work_dir, chance, longest):
    """Kill something of a training at a random moment. Return what was done, or None if the training had ended."""
    number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
    in_write = chance.random() < 0.3
    moment = time.monotonic() + chance.uniform(0.3, 1) * longest
    while process.poll() is None:
        writing = in_write and any(Path(work_dir).glob('.*.pth.*.partial'))
        if writing or time.monotonic() > moment:
            try:
                processes = tree(process.pid)
                place = chance.randrange(len(processes))
                what = role(processes, place)
                os.kill(processes[place][0], number)
            except (FileNotFoundError, ProcessLookupError):
                continue
            return number.name, what, 'in a write' if writing else 'anywhere'
        time.sleep(0.002 if in_write else 0.05)
    return None


def difference(found, expected, place=''):
    """Return where two checkpoints differ, or None. Times and logs are not compared."""
    if isinstance(expected, dict):
        if set(found) != set(expected):
            return f'{place}: {set(found) ^ set(expected)}'
        pairs = [(key, found[key], expected[key]) for key in expected if key not in _LEFT_OUT]
    elif isinstance(expected, (list, tuple)):
        if len(found) != len(expected):
            return f'{place}: {len(found)} and {len(expected)}'
        pairs = [(i, *pair) for i, pair in enumerate(zip(found, expected, strict=True))]
    else:
        same = torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected
        return None if same else place
    return next((there for key, *pair in pairs if (there := difference(*pair, f'{place}.{key}'))), None)


_LEFT_OUT = ('time', 'message_hub', 'cfg', 'experiment_name', 'random_states')


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folder', type=Path, help='for configs, work dirs and logs; a new one')
    parser.add_argument('--kills', type=int, default=50)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=list(KINDS))
    args = parser.parse_args()
    folder, chance, done = args.folder.resolve(), random.Random(args.seed), Counter()
    folder.mkdir(parents=True)
    scenes = [sys.executable, str(ROOT / 'tools/dataset_converters/digit_scenes.py'), str(folder / 'scenes')]
    subprocess.run(scenes, check=True, stdout=subprocess.DEVNULL)
    trainings = [Training(kind, folder) for kind in args.kinds]
    wrong, statuses = [], Counter()
    for i, training in enumerate(trainings):
        last = training.finish(training.folder / 'whole', chance)
        longest = training.seconds
        kills = (args.kills - sum(done.values())) // (len(trainings) - i)
        work_dir, run, killed = training.folder / 'run_0', 0, 0
        while killed < kills:
            process = training.start(work_dir, chance)
            what = kill(process, work_dir, chance, longest)
            status = process.wait(timeout=300)
            if what is None:  # it has ended before it was killed
                wrong += compare(training, work_dir, last)
                run += 1
                work_dir = training.folder / f'run_{run}'
                continue
            killed += 1
            done[what] += 1
            statuses[what[0], what[1], status] += 1
            print(f'{training.kind}: {what[0]} to the {what[1]}, {what[2]}: exit status {status}', flush=True)
            left = [pid for pid, line in everything() if str(work_dir) in line]
            deadline = time.monotonic() + 20
            while left and time.monotonic() < deadline:
                time.sleep(0.2)
                left = [pid for pid, line in everything() if str(work_dir) in line]
            if left:
                wrong.append(f'{training.kind}: {what} left processes behind: {left}')
        training.finish(work_dir, chance)
        wrong += compare(training, work_dir, last)
        print(f'{training.kind}: {killed} kills, {run + 1} trainings compared; {len(wrong)} faults so far', flush=True)
    print(json.dumps({' '.join(map(str, key)): value for key, value in sorted(statuses.items())}, indent=1))
    print(f'{sum(done.values())} kills, {len(wrong)} faults', *wrong, sep='\n')
    sys.exit(1 if wrong else 0)


def compare(training, work_dir, last):
    """Return what differs from the training that was not interrupted, as texts."""
    faults = []
    names = [sorted(path.name for path in each.glob('*.pth')) for each in (work_dir, last.parent)]
    if names[0] != names[1]:
        faults.append(f'{training.kind}: {work_dir} has {names[0]}, and {last.parent} has {names[1]}')
    for name in set(names[0]) & set(names[1]):
        place = difference(load_safely(work_dir / name), load_safely(last.parent / name))
        if place:
            faults.append(f'{training.kind}: {work_dir / name} differs in {place}')
    return faults


def everything():
    """Return all processes of this machine: (id, command line)."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            found.append((int(path.parent.name), path.read_bytes().replace(b'\0', b' ').decode(errors='replace')))
        except OSError:  # it has ended
            continue
    return found


if __name__ == '__main__':
    main()
