"""Convert a checkpoint of the authors' code into one for mmpretrain, mmdet and mmseg."""

import pickle
import sys

from ..converters import convert_file
from ..files import say
from .program import Parser


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument('source', help="the authors' file, of classification, detection or segmentation")
    parser.add_argument('target', help='the checkpoint to write')
    parser.add_argument('--ema', action='store_true', help='take the averaged weights, model_ema')
    parser.add_argument(
        '--trust', action='store_true', help='run code that is pickled in the file; default: such a file is refused'
    )
    args = parser.parse_args(argv)
    try:
        checkpoint = convert_file(args.source, args.target, ema=args.ema, trust=args.trust)
    except (ValueError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        sys.exit(f'error: {error}')
    meta, state_dict = checkpoint['meta'], checkpoint['state_dict']
    size = meta['arch'] if isinstance(meta['arch'], str) else f'not a published one, {meta["arch"]}'
    parameters = sum(weight.numel() for weight in state_dict.values())
    say(
        f'{args.target}: arch {size}; formulation {meta["formulation"]!r}; {meta["num_classes"] or "no"} classes; '
        f'{len(state_dict)} tensors, {parameters:,} parameters; from {meta["source"]}'
        f'{", averaged weights" if meta["ema"] else ""}, sha256 {meta["source_sha256"]}'
    )
