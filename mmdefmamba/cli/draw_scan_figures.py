"""Draw what a block does with images: its points, its scan orders, and what tokens receive from the others.

Three pictures an image, as in figures 4 and 5 of the paper: IMAGE_points.png, IMAGE_scan_order.png and
IMAGE_activation.png. With --layer, the last one alone, for a layer of any network of mmpretrain, mmdet or mmseg.
"""

from pathlib import Path

from ..analysis.layer_activation import LAYOUTS
from ..files import say
from ..visualization.scan_figures import layer_activation_figure, scan_figures
from .network_options import load_network, network_parser, run_tool

# Options about the blocks of DefMamba, and about a layer that --layer names.
OF_BLOCKS = ('stage', 'block', 'scan', 'zoom')
OF_LAYERS = ('layout', 'map_size')


def main(argv=None):
    parser = network_parser(__doc__)
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files')
    parser.add_argument('--stage', type=int, help='stage of the backbone, from 0; default: 1')
    parser.add_argument('--block', type=int, help='block of the stage, from 0; default: the last')
    parser.add_argument('--scan', help='the scan whose order is drawn, by its name in the config; default: deformable')
    token = dict(type=int, nargs=2, metavar=('ROW', 'COLUMN'), action='append', dest='tokens')
    parser.add_argument(
        '--token', **token, help='token on the map, from 0; several times for several tokens; default: its middle'
    )
    zoom = dict(type=int, nargs=4, metavar=('ROW', 'COLUMN', 'ROWS', 'COLUMNS'))
    parser.add_argument('--zoom', **zoom, help='tokens whose points are also shown larger')
    parser.add_argument(
        '--layer', metavar='NAME', help='activation maps of this layer, by gradients; a name in model.named_modules()'
    )
    parser.add_argument('--layout', choices=LAYOUTS, help="of the layer's maps, where their shape does not say it")
    size = dict(type=int, nargs=2, metavar=('ROWS', 'COLUMNS'))
    parser.add_argument(
        '--map-size', **size, help="of the layer's sequence of tokens, where its length does not say it"
    )
    parser.add_argument(
        '--out-dir', type=Path, default=Path('figures'), help='folder to write to; default: %(default)s'
    )
    run_tool(parser, argv, draw)


def draw(args):
    stems = [Path(image).stem for image in args.images]
    if len(set(stems)) < len(stems):
        raise ValueError(f'images must have different names, their pictures are named after them: got {stems}')
    figures_of = _figures(args)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    for image, stem in zip(args.images, stems, strict=True):
        for name, figure in figures_of(image):
            path = args.out_dir / f'{stem}_{name}.png'
            figure.savefig(path)
            say(path)


def _figures(args):
    """Return ``figures(image)``, which yields pairs of a name and a figure."""
    others, kind = (OF_LAYERS, 'without') if args.layer is None else (OF_BLOCKS, 'with')
    given = [f'--{name.replace("_", "-")}' for name in others if getattr(args, name) is not None]
    if given:
        raise ValueError(f'{", ".join(given)} cannot be used {kind} --layer')
    _, model = load_network(args)
    if args.layer is not None:
        layer = (args.layer, args.tokens, args.layout, args.map_size)
        return lambda image: [('activation', layer_activation_figure(model, image, *layer))]
    stage, block = (1 if args.stage is None else args.stage), (-1 if args.block is None else args.block)
    return lambda image: scan_figures(model, image, stage, block, args.tokens, args.scan, args.zoom)
