"""Convert a checkpoint from .pth to .safetensors, or back."""

import pickle
import sys

from ..converters import convert_format
from ..files import say
from .program import Parser


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument('source', help='the checkpoint, .pth or .safetensors')
    parser.add_argument('target', help='the file to write; its suffix, .safetensors or .pth, sets the format')
    args = parser.parse_args(argv)
    try:
        count, left_out = convert_format(args.source, args.target)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError, pickle.UnpicklingError) as error:
        sys.exit(f'error: {error}')
    say(f'{args.target}: {count} tensors; left out: {", ".join(left_out) or "nothing"}')
