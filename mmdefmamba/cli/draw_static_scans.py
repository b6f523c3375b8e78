"""Draw the paths of all registered scans that need no trained network, like figure 1 of the paper."""

import importlib
import sys
from pathlib import Path

import mmcv

from ..files import existing_file, say, shown
from ..visualization import draw_static_scans
from .program import Parser


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument(
        '--size', type=int, nargs=2, default=(8, 8), metavar=('H', 'W'), help='size of the map in tokens; default: 8 8'
    )
    parser.add_argument('--scans', nargs='+', metavar='SCAN', help='registered names; default: all')
    parser.add_argument(
        '--image', help='draw over this image, and also draw the scans that follow the features of an image'
    )
    parser.add_argument(
        '--out', type=Path, default=Path('static_scans.png'), help='file to write; default: %(default)s'
    )
    parser.add_argument(
        '--import',
        nargs='+',
        default=(),
        dest='modules',
        metavar='MODULE',
        help='modules or .py files to import first, which register scans of your own; looked for in this folder, too',
    )
    args = parser.parse_args(argv)
    try:
        import_modules(args.modules)
        image = mmcv.imread(str(existing_file(args.image, 'image')), channel_order='rgb') if args.image else None
        draw_static_scans(tuple(args.size), args.scans, image).savefig(args.out)
    except (OSError, ValueError) as error:
        parser.exit(2, f'{parser.prog}: error: {error}\n')
    say(args.out)


def import_modules(names):
    """Import modules of a user, such as ``my_scans`` or ``my_scans.py``, also from the current folder.

    Raises:
        ValueError: there is no such module, or it cannot be imported.
    """
    for name in names:
        path = Path(name)
        folder, module = (path.parent.resolve(), path.stem) if path.suffix == '.py' else (Path.cwd(), name)
        sys.path.insert(0, str(folder))
        try:
            importlib.import_module(module)
        except (ImportError, SyntaxError) as error:
            place = f'seen from {shown(Path.cwd())}'
            raise ValueError(f'--import {shown(name)}: {type(error).__name__}: {error}, {place}') from error
        finally:
            sys.path.remove(str(folder))
