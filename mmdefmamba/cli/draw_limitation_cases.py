"""Draw the limitation in figure 6 of the paper for an image: the image, a part of it, and a regular pattern of it."""

from pathlib import Path

from ..files import say
from ..visualization.scan_figures import limitation_figure
from .network_options import load_network, network_parser, run_tool


def main(argv=None):
    parser = network_parser(__doc__)
    parser.add_argument('image', help='image file of one object')
    parser.add_argument('--stage', type=int, default=1, help='stage of the backbone, from 0; default: %(default)s')
    parser.add_argument('--block', type=int, default=-1, help='block of the stage, from 0; default: the last')
    parser.add_argument('--tiles', type=int, default=3, help='copies along a side of the pattern; default: %(default)s')
    parser.add_argument(
        '--out', type=Path, default=Path('limitation_cases.png'), help='file to write; default: %(default)s'
    )
    run_tool(parser, argv, draw)


def draw(args):
    _, model = load_network(args)
    limitation_figure(model, args.image, args.stage, args.block, args.tiles).savefig(args.out)
    say(args.out)
