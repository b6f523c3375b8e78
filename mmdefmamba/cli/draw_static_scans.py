"""Draw the paths of all registered scans that need no trained network, as figure 1 of the paper does."""

import argparse
from pathlib import Path

import mmcv

from ..files import existing_file
from ..visualization import draw_static_scans


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--size', type=int, nargs=2, default=(8, 8), metavar=('H', 'W'), help='tokens, default 8 8')
    parser.add_argument('--scans', nargs='+', metavar='SCAN', help='registered names, by default all')
    parser.add_argument('--image', help='draw over this image, and scans that follow the features of an image, too')
    parser.add_argument('--out', type=Path, default=Path('static_scans.png'), help='file, default %(default)s')
    args = parser.parse_args(argv)
    try:
        image = mmcv.imread(str(existing_file(args.image, 'image')), channel_order='rgb') if args.image else None
        draw_static_scans(tuple(args.size), args.scans, image).savefig(args.out)
    except (OSError, ValueError) as error:
        parser.exit(2, f'{parser.prog}: error: {error}\n')
    print(args.out)
