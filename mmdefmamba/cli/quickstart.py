"""Train and test a small DefMamba on a CPU and draw its predictions, with data from the installed packages."""

import importlib
from pathlib import Path

from .program import Parser

TASKS = ('classification', 'detection', 'segmentation')


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument('task', choices=TASKS)
    parser.add_argument('--work-dir', help='folder for all results; default: work_dirs/quickstart_TASK')
    args = parser.parse_args(argv)
    work_dir = Path(args.work_dir or f'work_dirs/quickstart_{args.task}')
    importlib.import_module(f'mmdefmamba.quickstart.{args.task}').run(work_dir)
