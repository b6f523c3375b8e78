"""Two network namespaces stand for two machines, whose own names are 127.0.0.1, as many installations have it."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmdefmamba.compat import load_safely

ROOT = Path(__file__).parents[2]
PICO = ROOT / 'configs/classification/defmamba_pico_digits.py'
TINY = f"""
_base_ = {str(PICO)!r}
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=(8, 16), depths=(1, 1)), out_indices=1, drop_path_rate=0.0),
    head=dict(in_channels=16),
)
train_dataloader = dict(batch_size=8, dataset=dict(indices=32))
val_cfg = val_dataloader = val_evaluator = None
train_cfg = dict(max_epochs=1)
"""


def ip(*arguments):
    done = subprocess.run(['ip', *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())


@pytest.fixture
def machines():
    """Return the names of two network namespaces with the addresses 10.77.0.1 and 10.77.0.2."""
    if shutil.which('ip') is None or shutil.which('unshare') is None:
        pytest.skip('needs ip (iproute2) and unshare (util-linux)')
    names = [f'mmdefmamba{os.getpid()}{letter}' for letter in 'ab']
    with contextlib.ExitStack() as made:
        try:
            for name in names:
                ip('netns', 'add', name)
                made.callback(ip, 'netns', 'del', name)
                folder = Path('/etc/netns', name)
                folder.mkdir(parents=True)
                made.callback(shutil.rmtree, folder)
                (folder / 'hosts').write_text(f'127.0.0.1 localhost\n127.0.1.1 {name}\n')
            ip('link', 'add', f'v{os.getpid()}a', 'type', 'veth', 'peer', 'name', f'v{os.getpid()}b')
            for number, (name, letter) in enumerate(zip(names, 'ab', strict=True)):
                ip('link', 'set', f'v{os.getpid()}{letter}', 'netns', name)
                ip('-n', name, 'address', 'add', f'10.77.0.{number + 1}/24', 'dev', f'v{os.getpid()}{letter}')
                for device in ('lo', f'v{os.getpid()}{letter}'):
                    ip('-n', name, 'link', 'set', device, 'up')
        except OSError as error:
            pytest.skip(f'network namespaces cannot be made here: {error}')
        yield names


def test_two_machines_whose_names_are_loopback_addresses_train_one_network(machines, free_port, tmp_path):
    config, port, running = tmp_path / 'tiny.py', str(free_port()), []
    config.write_text(TINY)
    env = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PYTHON=sys.executable, PYTHONPATH=str(ROOT))
    env |= dict(NNODES='2', MASTER_ADDR='10.77.0.1', PORT=port, MMDEFMAMBA_START_TIMEOUT='90')
    env.pop('GLOO_SOCKET_IFNAME', None)
    for node, name in enumerate(machines):
        # ip puts /etc/netns/NAME/hosts in the place of /etc/hosts; the name of the machine is set here
        line = f'hostname {name} && exec {ROOT}/tools/dist_train.sh {config} 1 --work-dir {tmp_path}/run'
        command = ['ip', 'netns', 'exec', name, 'unshare', '--uts', 'sh', '-c', line]
        log = open(tmp_path / f'{node}.txt', 'w')  # noqa: SIM115 (open until the process ends)
        running.append(
            subprocess.Popen(command, env=dict(env, NODE_RANK=str(node)), cwd=tmp_path, stdout=log, stderr=log)
        )
    try:
        statuses = [process.wait(timeout=150) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    logs = [(tmp_path / f'{node}.txt').read_text() for node in range(2)]
    assert statuses == [0, 0], logs
    for name, letter, log in zip(machines, 'ab', logs, strict=True):
        assert (
            f'{name} is 127.0.1.1 in its own eyes (/etc/hosts); gloo uses the interface v{os.getpid()}{letter}' in log
        )
    meta = load_safely(tmp_path / 'run/epoch_1.pth')['meta']
    assert (meta['epoch'], meta['iter']) == (1, 2)  # each machine trains on half of the 4 batches
