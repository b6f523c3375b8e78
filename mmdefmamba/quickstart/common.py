"""The shared part of the quickstarts: train and test a config through MMEngine's Runner, and print the result."""

import os
import time
from pathlib import Path

import torch
from mmengine.device import get_device
from mmengine.runner import Runner, find_latest_checkpoint

from ..analysis import config_complexity, flops_text
from ..apis import zoo
from ..files import say
from ..ops.sequence_scan import auto_backend


def load_config(name, work_dir, cfg_options=None):
    """Return a config of this repository with a work directory."""
    cfg = zoo.load_config(name)
    cfg.work_dir = str(work_dir)
    cfg.merge_from_dict(cfg_options or {})
    return cfg


def train_and_test(cfg):
    """Train a config, then test the saved checkpoint with a new runner.

    Returns:
        The metrics of the test (dict), the runner of the test, the path of the checkpoint, and the seconds of training.
    """
    start = time.perf_counter()
    Runner.from_cfg(cfg).train()
    seconds = time.perf_counter() - start
    checkpoint = os.path.relpath(find_latest_checkpoint(cfg.work_dir))
    test_cfg = cfg.copy()
    # a new name, because MMEngine identifies the runners and loggers of a process by name
    test_cfg.update(load_from=checkpoint, resume=False, experiment_name=f'{Path(cfg.work_dir).name}_test')
    tester = Runner.from_cfg(test_cfg)
    return tester.test(), tester, checkpoint, seconds


@torch.no_grad()
def images_per_second(predict, num_images, seconds=2.0):
    """Measure the images per second of ``predict()``, a call that processes ``num_images``, for some seconds."""
    predict()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        predict()
        calls += 1
    return calls * num_images / (time.perf_counter() - start)


def cost_rows(cfg, shape):
    """Return rows of the printed table about the size of the model and about the machine."""
    counts, (_, height, width) = config_complexity(cfg, shape)
    return [
        ('parameters', f'{counts["params"] / 1e6:.3f} M'),
        (f'FLOPs at {height} x {width}, scan included', flops_text(counts['flops'])),
        ('selective scan backend', auto_backend(torch.empty(0, device=get_device()))[0]),
        ('threads', str(torch.get_num_threads())),
    ]


def print_table(title, rows):
    """Print rows of (name, value) under a title."""
    width = max(len(name) for name, _ in rows)
    say('', title, *(f'  {name:<{width}}  {value}' for name, value in rows))
