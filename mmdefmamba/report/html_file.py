"""Writes a report: one HTML file that needs nothing beside it and nothing from a network."""

import importlib.metadata
import os
import platform
import time
from pathlib import Path

import jinja2
import torch
from mmengine.device import get_device
from mmengine.utils.dl_utils import collect_env

from ..checkpoints import AtomicLocalBackend
from ..ops.sequence_scan import auto_backend
from ..version import __version__

HERE = Path(__file__).parent
LIBRARIES = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmcv-lite', 'mmpretrain', 'mmdet', 'mmsegmentation', 'numpy')


def write_page(template, path, **values):
    """Fill in a template of this folder; whatever is filled in is escaped.

    Args:
        template: its file name.
        path: the file to write; the one that is there is replaced as a whole.
        **values: of the template's names, all of them.

    Raises:
        OSError: the file cannot be written.
    """
    # Of values that a template names and nobody gives a report must not be silent.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(**values)
    AtomicLocalBackend().put_text(text, path)


def run_facts(runner):
    """Rows of (name, text) on a run: config, work dir, when."""
    return [
        ('config', runner.cfg.filename or '-'),
        ('work dir', runner.work_dir),
        ('written', time.strftime('%Y-%m-%d %H:%M:%S %z')),
    ]


def environment_facts(runner):
    """Rows of (name, text) on software and machine, short; and the whole of what MMEngine collects."""
    device = get_device()
    if device == 'cuda':
        device = f'cuda, {torch.cuda.get_device_name()}'
    rows = [
        ('mmdefmamba', __version__),
        *((name, version) for name in LIBRARIES if (version := _version(name))),
        ('Python', platform.python_version()),
        ('device', device),
        ('processes', str(runner.world_size)),
        ('CPU cores, threads of a process', f'{os.cpu_count()}, {torch.get_num_threads()}'),
        ('selective scan, by default', auto_backend(torch.empty(0, device=get_device()))[0]),
    ]
    return rows, [(name, str(value)) for name, value in collect_env().items()]


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
