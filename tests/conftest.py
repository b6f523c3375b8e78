import importlib.util
import io
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

# Without a GPU, Triton's interpreter runs the kernels, or with TRITON_INTERPRET=0 the emulator of compiled kernels in
# tests/ptx_emulator. Triton reads this variable once, when it is first imported. With older releases of PyTorch,
# importing MMEngine imports Triton.
EMULATED = not torch.cuda.is_available() and os.environ.get('TRITON_INTERPRET') == '0'
if not torch.cuda.is_available() and not EMULATED:
    os.environ['TRITON_INTERPRET'] = '1'
# One thread per process, also in processes that tests start: pytest-xdist runs one process per core, and threads that
# compete for a core are many times slower.
os.environ['OMP_NUM_THREADS'] = '1'
torch.set_num_threads(1)

from mmengine.logging import MMLogger  # noqa: E402
from mmengine.runner import runner as runner_module  # noqa: E402
from mmengine.utils import ManagerMixin  # noqa: E402

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser):
    parser.addoption('--examples', type=int, default=60, help='how many inputs each test_fuzz_*.py tries')
    parser.addoption('--kills', type=int, default=3, help='how often test_interruption.py kills a training')
    parser.addoption('--steps', type=int, help='training steps in test_distributed, test_memory and test_numbers')
    parser.addoption('--cases', type=int, default=60, help='how many random cases test_random_cases.py tries')


def pytest_configure(config):
    """With TRITON_INTERPRET=0 let the emulator take the place of Triton's driver, before test files are imported."""
    config.ptx_emulator = None
    if EMULATED and importlib.util.find_spec('triton'):
        sys.path.append(str(ROOT / 'tests'))
        from ptx_emulator.driver import emulated

        from mmdefmamba.ops.triton_scan import launch

        launch.INTERPRETED = True  # tensors of the CPU are welcome
        emulation = emulated()
        config.ptx_emulator = emulation.__enter__()
        config.add_cleanup(lambda: emulation.__exit__(None, None, None))


@pytest.fixture(autouse=True)
def _forget_memory(request):
    emulator = request.config.ptx_emulator
    if emulator:
        emulator.allocations.forget()
        emulator.launches.clear()


@pytest.fixture
def shapes_given_to(monkeypatch):
    """Return ``record(module, name)``: a list that gets the shape of the first argument of each call of a function."""

    def record(module, name):
        shapes, real = [], getattr(module, name)

        def recorded(x, *args):
            shapes.append(tuple(x.shape))
            return real(x, *args)

        monkeypatch.setattr(module, name, recorded)
        return shapes

    return record


@pytest.fixture
def emulator(request):
    """Return the emulator of compiled kernels, in which tests with the marker ``ptx`` run; see tests/ptx_emulator."""
    if not request.config.ptx_emulator:
        pytest.skip('needs the emulator of compiled kernels: TRITON_INTERPRET=0 python -m pytest -m ptx')
    emulator = request.config.ptx_emulator
    yield emulator
    emulator.edit = None


def forget(kind=ManagerMixin):
    """Delete the scope, logger and visualizer that MMEngine keeps by name, so that the next run starts without them."""
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
    """Give each run of a process its own folder, logger and visualizer.

    MMEngine names them by the second in which a run starts. Runs of the tests can start in the same second, and would
    then write into the same folder. Here each name also has a number.
    """
    numbers = itertools.count()

    def second_and_number(*args):
        return f'{time.strftime(*args)}_{next(numbers):06}'

    clock = SimpleNamespace(time=time.time, localtime=time.localtime, strftime=second_and_number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner_module, 'time', clock)
        yield


class Tools(dict):
    """The main functions of the tools by name, such as ``tools['test']``.

    A tool is loaded when it is first used. Each call starts without the state of earlier runs, as a new process does.
    """

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
    """Return ``run(*arguments)``, which runs tools/test.py in this process."""
    return lambda *args: tools['test']([str(arg) for arg in args])


@pytest.fixture
def told():
    """Return the list of (level, text) pairs that MMEngine's logger receives.

    ``caplog`` does not see them, because this logger passes nothing on to Python's root logger.
    """
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append((record.levelname, record.getMessage()))
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.fixture(scope='session')
def free_port():
    """Return a function that finds a port on which no process listens.

    The ports are below those that Linux assigns automatically (from 32768 on). A free one stays free until a run asks
    for it.
    """

    def find():
        while True:
            port = random.SystemRandom().randrange(15000, 32768)  # runs in this process seed the global one
            with socket.socket() as tried:
                if tried.connect_ex(('127.0.0.1', port)):
                    return port

    return find


@pytest.fixture
def run_distributed(free_port, tmp_path):
    """Return ``run(script, *arguments)``, which runs one of tools/dist_*.sh and returns its output.

    The script runs in ``tmp_path``, because MMEngine leaves a folder there. ``fails`` says whether the script should
    fail. ``folder`` is one more folder to import from.
    """

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
    """Return ``run(config, checkpoint)``, which tests in two processes over gloo.

    It returns the folder with ``out.pkl`` and the log.
    """

    def run(config, checkpoint):
        run_distributed('dist_test.sh', config, checkpoint, 2, '--work-dir', tmp_path, '--out', tmp_path / 'out.pkl')
        return tmp_path

    return run


@pytest.fixture(scope='session')
def run_python():
    """Return ``run(code, *folders, **environment)``, which runs code in a fresh interpreter.

    It returns what the interpreter printed, (stdout, stderr). ``folders`` are more folders to import from. The
    environment variables MMDEFMAMBA_COMPAT and RANK are not inherited.
    """

    def run(code, *folders, **environment):
        path = os.pathsep.join(map(str, (*folders, ROOT, *filter(None, [os.environ.get('PYTHONPATH')]))))
        inherited = {key: value for key, value in os.environ.items() if key not in ('MMDEFMAMBA_COMPAT', 'RANK')}
        env = {**inherited, 'PYTHONPATH': path, **environment}
        done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run


class CreatesFile:
    """An object that calls ``function(path)`` when it is unpickled, which creates a file or folder."""

    def __init__(self, path, function):
        self.path, self.function = path, function

    def __reduce__(self):
        return self.function, (self.path, *(['w'] if self.function is io.open else []))


@pytest.fixture(scope='session')
def creates_file():
    """Return the class :class:`CreatesFile`."""
    return CreatesFile


@pytest.fixture(scope='session')
def logged_metrics():
    """Return ``read(work_dir)``, which gives the metrics that the only test run of a work dir logged."""

    def read(work_dir):
        (log,) = work_dir.glob('*/*.json')
        return json.loads(log.read_text().splitlines()[-1])

    return read


@pytest.fixture(scope='session')
def quick_interpreter():
    """Speed up Triton's interpreter, and let it run with NumPy 2.4 and later.

    The interpreter of Triton 3.6 makes an index of an array with one element by ``int(array)``, which NumPy 2.4
    refuses: no kernel with a loop or a branch would run.

    The interpreter prepares its language again in each call of a device function, which takes a millisecond. Here it
    does so only if the language is not prepared yet. Without this, tests that run kernels give the same results, but
    take ten times as long.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    prepare, prepare_tensor = interpreter._patch_lang, interpreter._patch_lang_tensor
    nothing_to_restore = SimpleNamespace(restore=lambda: None)

    def prepare_once(function):
        languages = [module for module in function.__globals__.values() if module is tl or module is tl.core]
        if any(tl.core.is_builtin(language.load) for language in languages):
            return prepare(function)
        return nothing_to_restore

    def prepare_tensor_and_index(tensor, *scope):
        prepare_tensor(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang, interpreter._patch_lang_tensor = prepare_once, prepare_tensor_and_index
    yield
    interpreter._patch_lang, interpreter._patch_lang_tensor = prepare, prepare_tensor


@pytest.fixture
def fake_cuda():
    """Skip where PyTorch needs a GPU for CUDA tensors without memory: 2.7 does, 2.11 does not."""
    import torch

    if torch.__version__ < (2, 11) and not torch.cuda.is_available():
        pytest.skip('CUDA tensors without memory need PyTorch 2.11')


@pytest.fixture
def whole_float32():
    """Switch TF32 off, which has 10 bits of mantissa. It is on by default in cuDNN's convolutions."""
    import torch

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('highest')
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
    torch.set_float32_matmul_precision(precision)


@pytest.fixture(scope='session')
def record_operators():
    """Return a context manager that records all operators that run within: in ``calls``, (operator, arguments)."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.calls = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.calls.append((function, args))
            return function(*args, **(kwargs or {}))

        @property
        def names(self):
            """The names of all operators but views."""
            return [function.overloadpacket.__name__ for function, _ in self.calls if not function.is_view]

    return Recorder


@pytest.fixture(scope='session')
def pure_python(tmp_path_factory):
    """Return ``write(cfg)``, which writes a Config in pure Python style, with classes as types and no default scope.

    It returns the path of the file.
    """
    import mmengine.registry
    from mmengine.registry import DefaultScope, Registry

    roots = [root for root in vars(mmengine.registry).values() if isinstance(root, Registry)]

    def find_class(name):
        for root in roots:
            with root.switch_scope_and_registry(None) as registry:
                found = registry.get(name)
            if found is not None:
                return found
        return None

    def write(cfg):
        imports = set()

        def text(node):
            if isinstance(node, dict):
                return f'{{{", ".join(f"{key!r}: {named(node, key)}" for key in node)}}}'
            if isinstance(node, tuple):
                return f'({"".join(text(value) + "," for value in node)})'
            if isinstance(node, list):
                return f'[{", ".join(map(text, node))}]'
            return repr(node)

        def named(node, key):
            found = find_class(node[key]) if key == 'type' and isinstance(node[key], str) else None
            if found is None or found.__module__ in ('torch.nn.modules.batchnorm', 'torch.nn.modules.activation'):
                return text(node[key])
            imports.add(f'from {found.__module__} import {found.__name__}')
            return found.__name__

        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            values = {key: value for key, value in cfg.to_dict().items() if key != 'default_scope'}
            lines = [f'{key} = {text(value)}' for key, value in values.items()]
        path = tmp_path_factory.mktemp('pure') / 'pure_config.py'
        path.write_text('\n'.join([*sorted(imports), *lines]) + '\n')
        return path

    return write


@pytest.fixture(scope='session')
def pico_checkpoints(tmp_path_factory):
    """Return a dict: task -> (name of its pico model, path of a checkpoint with random weights)."""
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
