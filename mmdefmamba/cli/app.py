"""The program of tools/app.py: it finds trained models, prints which, and serves the page."""

import importlib.util
import os
import sys
from pathlib import Path

from ..app.trained_models import TrainedModel, find_models, with_unique_names, without_repetitions
from ..files import existing_file, say, shown
from .program import Parser, tell_error


def app_parser():
    """Return the parser of tools/app.py."""
    parser = Parser(description='Look at what a trained model does, in a browser on this machine.')
    parser.add_argument(
        '--checkpoint-dir',
        action='append',
        metavar='DIR',
        help='the work dir of a training, or a folder of work dirs; may be repeated; default: work_dirs',
    )
    parser.add_argument(
        '--model',
        nargs=2,
        action='append',
        default=[],
        metavar=('CONFIG', 'CHECKPOINT'),
        help='a config (path, or a name of mmdefmamba.list_models()) and its checkpoint; may be repeated; the page '
        'opens with the first one',
    )
    parser.add_argument('--device', default='cpu', help='default: %(default)s')
    parser.add_argument(
        '--host', default='127.0.0.1', help='address to listen at; default: %(default)s, only this machine'
    )
    parser.add_argument(
        '--allow-host',
        action='append',
        default=[],
        metavar='NAME',
        help='answer to this name as well, such as that of a proxy; may be repeated; default: the loopback names, and '
        'those of --host',
    )
    parser.add_argument('--port', type=int, default=7860, help='default: %(default)s; 0 takes a free port')
    parser.add_argument('--open', action='store_true', help='open the page in a browser')
    return parser


def main(argv=None):
    """Run tools/app.py.

    Returns:
        The exit code: 0, or 2 if there is no model to serve or Gradio is not installed.
    """
    args = app_parser().parse_args(argv)
    if importlib.util.find_spec('gradio') is None:
        tell_error("the page needs Gradio, which is not installed: pip install 'mmdefmamba[app]'")
        return 2
    # before Gradio is imported: it reads these once, and would otherwise report to its makers that a page was started
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    os.environ['HF_HUB_DISABLE_TELEMETRY'] = '1'
    try:
        models = collect_models(args.checkpoint_dir or ['work_dirs'], args.model)
        from ..app.gradio_page import serve

        serve(models, args.device, args.host, args.port, args.open, allow_hosts=args.allow_host)
    except (OSError, ValueError) as error:  # for example a port that is in use, or no model
        tell_error(error)
        return 2
    return 0


def collect_models(folders, pairs):
    """Return the models of (config, checkpoint) pairs and then of folders under different names, and print them.

    The page opens with the first of them. Each checkpoint is there once; a pair takes precedence over a folder.

    Raises:
        FileNotFoundError: a checkpoint of a pair does not exist, or there is no model at all.
    """
    models = [
        TrainedModel(shown(Path(config).stem), config, str(existing_file(checkpoint, 'checkpoint')))
        for config, checkpoint in pairs
    ]
    for folder in folders:
        found, skipped = find_models(folder)
        models += found
        for line in skipped:
            say(f'skipped {line}', file=sys.stderr)
    if not models:
        raise FileNotFoundError(
            f'no trained model in {", ".join(map(shown, folders))}, seen from {shown(Path.cwd())}: train one with make '
            'quickstart, or name one with --model CONFIG CHECKPOINT'
        )
    models = with_unique_names(without_repetitions(models))
    for model in models:
        say(f'found {model.name}: {model.checkpoint}, {model.config}')
    return models
