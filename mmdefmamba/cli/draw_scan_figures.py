"""Draw what a block does with images: its points, its scan orders, and what a token receives from the others.

Three pictures an image, as in figures 4 and 5 of the paper: IMAGE_points.png, IMAGE_scan_order.png and
IMAGE_activation.png.
"""

from pathlib import Path

from ..visualization.scan_figures import scan_figures
from .network_options import load_network, network_parser, run_tool


def main(argv=None):
    parser = network_parser(__doc__)
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files')
    parser.add_argument('--stage', type=int, default=1, help='stage of the backbone, from 0; default: %(default)s')
    parser.add_argument('--block', type=int, default=-1, help='block of the stage, from 0; default: the last')
    parser.add_argument('--scan', help='the scan whose order is drawn, by its name in the config; default: deformable')
    token = dict(type=int, nargs=2, metavar=('ROW', 'COLUMN'))
    parser.add_argument('--token', **token, help="token on the block's map, from 0; default: its middle")
    zoom = dict(type=int, nargs=4, metavar=('ROW', 'COLUMN', 'ROWS', 'COLUMNS'))
    parser.add_argument('--zoom', **zoom, help='tokens whose points are also shown larger')
    parser.add_argument(
        '--out-dir', type=Path, default=Path('figures'), help='folder to write to; default: %(default)s'
    )
    run_tool(parser, argv, draw)


def draw(args):
    stems = [Path(image).stem for image in args.images]
    if len(set(stems)) < len(stems):
        raise ValueError(f'images must have different names, their pictures are named after them: got {stems}')
    _, model = load_network(args)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    for image, stem in zip(args.images, stems, strict=True):
        for name, figure in scan_figures(model, image, args.stage, args.block, args.token, args.scan, args.zoom):
            path = args.out_dir / f'{stem}_{name}.png'
            figure.savefig(path)
            print(path)
