"""Read the data of a config without training, print what it holds and what is wrong, and draw samples on a page."""

import argparse
import logging
from pathlib import Path

from mmengine.logging import MMLogger

from ..apis.zoo import load_config
from ..files import existing_file, say
from ..report.data_check import check_data
from ..report.data_page import write_data_page
from ..report.data_text import as_text
from .program import Parser
from .run_options import CfgOptions

FINE, PROBLEMS = 0, 1


def data_parser():
    """Return the parser of tools/check_data.py."""
    parser = Parser(
        description='Read the data of a config without training. Print counts per class and split, sizes, what is left '
        'out and why, the names of the classes on all sides, and every problem; and write a page with drawn samples.',
        epilog='Exit code: 0 if no problem was found, 1 otherwise.',
    )
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--checkpoint', help='compare the classes with those of this checkpoint')
    parser.add_argument(
        '--report', metavar='DIR', help='folder of the page data.html; default: ./work_dirs/CONFIG_NAME'
    )
    parser.add_argument(
        '--limit', type=_positive, default=1000, help='image files and label maps to read per split; default: 1000'
    )
    parser.add_argument('--samples', type=_positive, default=6, help='images to draw per split; default: 6')
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptions, default={}, metavar='KEY=VALUE', help='change the config'
    )
    return parser


def main(argv=None):
    """Run tools/check_data.py.

    It prints, in this order: the config; for each split the dataset, its images, their sizes, and what is left out;
    a table of the names on all sides (classes, folders or categories, checkpoint); a table of counts per class and
    split; the problems, numbered; and the path of the page.

    Returns:
        The exit code: ``FINE`` or ``PROBLEMS``.
    """
    args = data_parser().parse_args(argv)
    cfg = load_config(args.config)
    cfg.merge_from_dict(args.cfg_options)
    if args.checkpoint and '://' not in args.checkpoint:
        existing_file(args.checkpoint, 'checkpoint')
    # the notes of the guards are part of the report
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    check = check_data(cfg, args.checkpoint, args.limit, args.samples)
    say(*as_text(check).split('\n'))
    page = write_data_page(check, cfg, args.report or Path('work_dirs', Path(args.config).stem), args.samples)
    say('', f'page: {page}')
    return PROBLEMS if check.problems else FINE


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'must be positive, got {value}')
    return value
