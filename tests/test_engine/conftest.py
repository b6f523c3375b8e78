"""Runs in processes that are forked from the test's process, because imports take longer than the runs themselves."""

import contextlib
import gc
import importlib
import os
import resource
import signal
import sys
import time
import traceback
from types import SimpleNamespace

import pytest
import torch
from yapf.yapflib import yapf_api

from mmdefmamba.cli.run_options import build_runner, train_config, train_parser
from mmdefmamba.datasets.digits import Digits


@pytest.fixture(scope='session')
def processes(free_port):
    """Return the functions below. Modules that a training needs are imported here, once for all processes."""
    for name in ('models', 'datasets', 'engine', 'evaluation'):
        importlib.import_module(f'mmpretrain.{name}')
    importlib.import_module('mmengine._strategy')
    Digits('train').full_init()
    return SimpleNamespace(
        fork=fork,
        fork_ranks=lambda *args: fork_ranks(free_port(), *args),
        wait=wait,
        wait_until=wait_until,
        train=train,
    )


def fork(work, log, **environment):
    """Call ``work()`` in a new process, whose output goes to the file ``log``.

    Returns:
        The id of the process. Its exit status is 1 if ``work`` raises an error.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        sys.stdout = sys.stderr = open(log, 'w', buffering=1)  # noqa: SIM115 (open until the process ends)
        os.environ.update(environment)
        torch.set_num_threads(1)
        gc.freeze()  # datasets collect garbage when they are built, and the heap of the test is large
        yapf_api.FormatCode = lambda text, **kwargs: (text, True)  # saves half a second per config that is written
        work()
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def fork_ranks(port, world_size, work, folder):
    """Call ``work(rank)`` in processes that find each other as those of torchrun do.

    Their output goes to folder/rank*.txt.

    Returns:
        The ids of the processes, in the order of their ranks.
    """
    shared = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), WORLD_SIZE=str(world_size))
    folder.mkdir(parents=True, exist_ok=True)
    return [
        fork(lambda rank=rank: work(rank), folder / f'rank{rank}.txt', RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in range(world_size)
    ]


def wait(children, seconds=600):
    """Wait for processes to end.

    Returns:
        Their exit statuses, as ``subprocess`` gives them: -9 if a process was killed. The status is None if a process
        did not end within ``seconds`` and was killed here.
    """
    statuses, deadline = {}, time.monotonic() + seconds
    while len(statuses) < len(children):
        late = time.monotonic() > deadline
        for child in set(children) - set(statuses):
            if late:
                os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, 0 if late else os.WNOHANG)
            if ended:
                statuses[child] = None if late else os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return [statuses[child] for child in children]


def wait_until(condition, seconds=120):
    """Wait until ``condition()`` is true, for at most ``seconds``; return its value."""
    deadline = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < deadline, f'not within {seconds} s'
        time.sleep(0.1)
    return met


def train(arguments, hooks=()):
    """Train as tools/train.py does, with additional hooks; return the runner."""
    runner = build_runner(train_config(train_parser().parse_args([str(argument) for argument in arguments])))
    for hook in hooks:
        runner.register_hook(hook, priority='HIGHEST')
    runner.train()
    return runner


@pytest.fixture
def little_room():
    """Return a context manager that limits the size of files to 4 KiB, which a program sees as a full disk.

    Nothing else may write meanwhile.
    """

    @contextlib.contextmanager
    def limited():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
