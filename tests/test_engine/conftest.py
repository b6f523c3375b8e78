"""Runs in processes of their own, forked from the test's: its imports take longer than the runs themselves."""

import gc
import importlib
import os
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
    """The functions below. What a training imports is imported here, once for all processes."""
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
    """Call ``work()`` in a process of its own, whose output goes to the file ``log``.

    Returns:
        The process's id. Its exit status is 1 where ``work`` raises.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        sys.stdout = sys.stderr = open(log, 'w', buffering=1)  # noqa: SIM115 (to the end of the process)
        os.environ.update(environment)
        torch.set_num_threads(1)
        gc.freeze()  # datasets collect garbage when they are built, and the test's own heap is large
        yapf_api.FormatCode = lambda text, **kwargs: (text, True)  # half a second for each config that is written
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def fork_ranks(port, world_size, work, folder):
    """Call ``work(rank)`` in processes that find each other as torchrun's do; their output goes to folder/rank*.txt.

    Returns:
        The processes' ids, by rank.
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
        Their exit statuses as of subprocess, -9 for one that was killed; None for one that had not ended within
        ``seconds``, and was killed then.
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
    """Wait until ``condition()`` is true, ``seconds`` at most; returns what it gave."""
    deadline = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < deadline, f'not within {seconds} s'
        time.sleep(0.1)
    return met


def train(arguments, hooks=()):
    """What tools/train.py does, with more hooks; returns the runner."""
    runner = build_runner(train_config(train_parser().parse_args([str(argument) for argument in arguments])))
    for hook in hooks:
        runner.register_hook(hook, priority='HIGHEST')
    runner.train()
    return runner
