"""Writing a report: one HTML file that needs no other file and no network."""

import importlib.metadata
import logging
import os
import platform
import time
from pathlib import Path

import jinja2
import torch
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.utils.dl_utils import collect_env

from ..checkpoints import AtomicLocalBackend
from ..files import shown_lines
from ..ops.sequence_scan import auto_backend
from ..version import __version__

HERE = Path(__file__).parent
LIBRARIES = (
    *('torch', 'torchvision', 'mmengine', 'mmcv', 'mmcv-lite', 'mmpretrain', 'mmdet', 'mmsegmentation', 'numpy'),
    *('onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain', 'onedl-mmdetection', 'onedl-mmsegmentation'),
)


class Parts:
    """The parts of a page. A part that fails is left out of the page and named in it: the run is finished already.

    Attributes:
        problems: texts, one per part that failed.
    """

    def __init__(self, problems=()):
        self.problems = list(problems)

    def make(self, name, instead, function, *args):
        """Return ``function(*args)``, or ``instead`` and a new entry of ``problems`` if it raises an error.

        Args:
            name: what the page calls the part.
        """
        try:
            return function(*args)
        except Exception as error:  # a part can fail for any reason, and the scores are to be shown all the same
            self.problems.append(f'{name}: {type(error).__name__}: {error}')
            print_log(f'report: {self.problems[-1]}', 'current', logging.WARNING)
            return instead


def write_page(template, path, **values):
    """Render a template of this folder and write the page. All values are escaped, control characters as well.

    Args:
        template: file name of the template.
        path: file to write; an existing file is replaced as a whole.
        **values: value of each name in the template.

    Raises:
        OSError: the file cannot be written.
    """
    # StrictUndefined: a name without a value is an error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        finalize=shown_value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(**values)
    AtomicLocalBackend().put_text(text, path)


def shown_value(value):
    """Return a value of a template without control characters; what is no plain text is returned as it is."""
    return shown_lines(value) if type(value) is str else value


def run_facts(runner):
    """Return rows of (name, text) about a run: config, work dir, time."""
    config, *rest = page_facts(runner.cfg.filename)
    return [config, ('work dir', runner.work_dir), *rest]


def page_facts(config):
    """Return rows of (name, text) about a page: the path of the config, or '-' where it has none, and the time."""
    return [('config', config or '-'), ('written', time.strftime('%Y-%m-%d %H:%M:%S %z'))]


def environment_facts(processes=1):
    """Return rows of (name, text) about software and machine: a short list, and everything that MMEngine collects.

    Args:
        processes: the number of processes of the run.
    """
    device = get_device()
    if device == 'cuda':
        device = f'cuda, {torch.cuda.get_device_name()}'
    rows = [
        ('mmdefmamba', __version__),
        *((name, version) for name in LIBRARIES if (version := _version(name))),
        ('Python', platform.python_version()),
        ('device', device),
        ('processes', str(processes)),
        ('CPU cores, threads per process', f'{os.cpu_count()}, {torch.get_num_threads()}'),
        ('default backend of the selective scan', auto_backend(torch.empty(0, device=get_device()))[0]),
    ]
    return rows, [(name, str(value)) for name, value in collect_env().items()]


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
