"""The program of tools/export.py: it writes a trained model into an ONNX or .pt2 file, and checks the file."""

import pickle
import time
from pathlib import Path

from ..apis.zoo import get_model, load_config
from ..export.export_model import FORMATS, export_model
from ..export.graph import PARTS
from ..files import say
from .program import Parser, tell_error
from .run_options import CfgOptions

DONE, FAILED = 0, 1


def export_parser():
    """Return the parser of tools/export.py."""
    parser = Parser(
        description='Write a trained model into a file that other programs run, and check that the file computes the '
        'same. A classifier or segmentor gives its logits, a detector the maps of its backbone and neck.',
        epilog='Exit code: 0 if the file is written, 1 after an error or if the file computes something else; then '
        'there is no file.',
    )
    parser.add_argument('config', help='path of the config, or a name of mmdefmamba.list_models()')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('out', type=Path, help='the file to write')
    parser.add_argument('--format', choices=FORMATS, default='onnx', help='default: %(default)s')
    parser.add_argument(
        '--part', choices=PARTS, default='model', help="'backbone' gives the maps of the backbone; default: %(default)s"
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='the only size of a --static file; otherwise the largest size of the check, default: 224 224',
    )
    parser.add_argument('--static', action='store_true', help='fix the batch and the size; default: both are free')
    parser.add_argument('--batch', type=int, help='images of a --static file; default: 1')
    parser.add_argument(
        '--with-preprocessing', action='store_true', help='the file takes raw RGB, 0 to 255, and normalises it'
    )
    parser.add_argument(
        '--inline', action='store_true', help='replace ONNX functions by their operators, for OpenVINO and others'
    )
    parser.add_argument('--no-verify', action='store_true', help='do not check the file against the model')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='change the config')
    return parser


def main(argv=None):
    """Run tools/export.py.

    Returns:
        The exit code: ``DONE`` or ``FAILED``.
    """
    args = export_parser().parse_args(argv)
    begin = time.monotonic()
    try:
        cfg = load_config(args.config)
        cfg.merge_from_dict(args.cfg_options or {})
        model = get_model(cfg, args.checkpoint)
        verification = export_model(
            cfg,
            model,
            args.out,
            format=args.format,
            part=args.part,
            shape=args.shape,
            static=args.static,
            batch=args.batch,
            preprocessing=args.with_preprocessing,
            inline=args.inline,
            check=not args.no_verify,
            report=lambda line: say(f'{time.monotonic() - begin:5.0f} s  {line}'),
        )
    except (OSError, ValueError, TypeError, RuntimeError, ImportError, pickle.UnpicklingError) as error:
        tell_error(error)
        return FAILED
    if verification is None:
        say(f'{args.out}: written, not checked (--no-verify)')
        return DONE
    say(*verification.table().split('\n'))
    say(f'{args.out}: written and checked, {time.monotonic() - begin:.0f} s')
    return DONE
