import importlib.util
import itertools
import json
import logging
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

# Without a GPU Triton's own interpreter runs the kernels. It asks once, when triton is first imported, which MMEngine
# does in older releases of PyTorch.
if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'
# One thread each, processes that tests start included: pytest-xdist runs as many at a time as there are cores, and
# threads that wait for each other's core take many times as long.
os.environ['OMP_NUM_THREADS'] = '1'
torch.set_num_threads(1)

from mmengine.logging import MMLogger  # noqa: E402
from mmengine.runner import runner as runner_module  # noqa: E402
from mmengine.utils import ManagerMixin  # noqa: E402

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser):
    parser.addoption('--examples', type=int, default=60, help='how many inputs each test_fuzz_*.py tries')
    parser.addoption('--kills', type=int, default=3, help='how often test_interruption.py kills a training')
    parser.addoption('--steps', type=int, help='how long the trainings of test_distributed, _memory and _numbers are')
    parser.addoption('--cases', type=int, default=60, help='how many random cases test_random_cases.py tries')


def forget(kind=ManagerMixin):
    """MMEngine keeps the scope, logger and visualizer of a process by name: the next run starts without them."""
    kind._instance_dict.clear()
    for child in kind.__subclasses__():
        forget(child)


@pytest.fixture(scope='session')
def forget_runs():
    return forget


@pytest.fixture(autouse=True, scope='module')
def fresh_module():
    forget()


@pytest.fixture(autouse=True, scope='session')
def runs_apart():
    """MMEngine names a run's folder, logger and visualizer by the second in which it starts. Runs of one process that
    start in the same second, as no user's do, would write into the first one's folder: here they are numbered too."""
    numbers = itertools.count()

    def second_and_number(*args):
        return f'{time.strftime(*args)}_{next(numbers):06}'

    clock = SimpleNamespace(time=time.time, localtime=time.localtime, strftime=second_and_number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner_module, 'time', clock)
        yield


class Tools(dict):
    """The main functions of the tools by name, such as ``tools['test']``, loaded when asked for. Each call starts as a
    process does: without the runs before it."""

    def __missing__(self, name):
        spec = importlib.util.spec_from_file_location(f'tools_{Path(name).name}', ROOT / f'tools/{name}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        def main(argv=None):
            forget()
            return module.main(argv)

        self[name] = main
        return main


@pytest.fixture(scope='session')
def tools():
    return Tools()


@pytest.fixture(scope='session')
def run_test_tool(tools):
    """``run_test_tool(*arguments)`` runs tools/test.py in this process."""
    return lambda *args: tools['test']([str(arg) for arg in args])


@pytest.fixture
def told():
    """What MMEngine's logger, which passes nothing on to Python's root logger, is told: (level, text) pairs."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append((record.levelname, record.getMessage()))
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.fixture(scope='session')
def free_port():
    """A function that gives a port nothing listens on, below those that Linux hands out by itself (from 32768 on): what
    is free there stays free until a run asks for it."""

    def find():
        while True:
            port = random.SystemRandom().randrange(15000, 32768)  # runs in this process seed the others
            with socket.socket() as tried:
                if tried.connect_ex(('127.0.0.1', port)):
                    return port

    return find


@pytest.fixture
def run_distributed(free_port, tmp_path):
    """``run_distributed(script, *arguments)`` runs one of tools/dist_*.sh in ``tmp_path``, where MMEngine leaves a
    folder of its own, and returns what it printed; ``fails`` if it should, with ``folder`` to import from."""

    def run(script, *args, folder=ROOT, fails=False):
        env = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PORT=str(free_port()))
        env['PYTHON'] = sys.executable
        env['PYTHONPATH'] = os.pathsep.join([str(folder), str(ROOT), env.get('PYTHONPATH', '')])
        done = subprocess.run(
            [str(part) for part in (ROOT / 'tools' / script, *args)],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert (done.returncode != 0) == fails, done.stdout[-5000:]
        assert done.stdout.count('distributed over gloo') == 1
        return done.stdout

    return run


@pytest.fixture
def run_dist_test(run_distributed, tmp_path):
    """``run_dist_test(config, checkpoint)``: the folder where two processes over gloo left ``out.pkl`` and the log."""

    def run(config, checkpoint):
        run_distributed('dist_test.sh', config, checkpoint, 2, '--work-dir', tmp_path, '--out', tmp_path / 'out.pkl')
        return tmp_path

    return run


@pytest.fixture(scope='session')
def logged_metrics():
    """``logged_metrics(work_dir)``: what the only test run of a work dir logged."""

    def read(work_dir):
        (log,) = work_dir.glob('*/*.json')
        return json.loads(log.read_text().splitlines()[-1])

    return read


@pytest.fixture(scope='session')
def quick_interpreter():
    """Triton's interpreter prepares its language anew in every call of a device function, for a millisecond: do it
    only where it is not prepared. Tests that run kernels take ten times as long without this, and are right as well."""
    import triton.language as tl
    from triton.runtime import interpreter

    prepare = interpreter._patch_lang
    nothing_to_restore = SimpleNamespace(restore=lambda: None)

    def prepare_once(function):
        languages = [module for module in function.__globals__.values() if module is tl or module is tl.core]
        if any(tl.core.is_builtin(language.load) for language in languages):
            return prepare(function)
        return nothing_to_restore

    interpreter._patch_lang = prepare_once
    yield
    interpreter._patch_lang = prepare


@pytest.fixture(scope='session')
def pico_checkpoints(tmp_path_factory):
    """``(name of the model, path of a checkpoint with random weights)`` of the pico model of each task."""
    import mmdefmamba

    names = dict(
        classification='defmamba_pico_digits',
        detection='mask_rcnn_defmamba_pico_digits',
        segmentation='upernet_defmamba_pico_digits',
    )
    folder = tmp_path_factory.mktemp('checkpoints')
    checkpoints = {}
    for task, name in names.items():
        torch.manual_seed(0)
        model = mmdefmamba.get_model(name)
        checkpoints[task] = (name, folder / f'{task}.pth')
        meta = dict(dataset_meta=dict(model.dataset_meta))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoints[task][1])
    return checkpoints
