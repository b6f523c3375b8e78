"""Print and draw how far the deformable scans of a network move points and tokens in each stage."""

from pathlib import Path

from ..analysis import offset_statistics
from ..analysis.markdown import markdown_table
from ..analysis.offsets import statistics_table
from ..files import say
from ..visualization import draw_offset_statistics
from ..visualization.inputs import dataset_images, network_inputs, test_dataloader
from .network_options import load_network, network_parser, run_tool


def main(argv=None):
    parser = network_parser(__doc__)
    parser.add_argument(
        '--images', type=int, default=100, help='how many images of the test set, evenly spread; default: %(default)s'
    )
    parser.add_argument(
        '--scan', help='the scan whose order is measured, by its name in the config; default: deformable'
    )
    parser.add_argument(
        '--out', type=Path, default=Path('offset_statistics.png'), help='file to write; default: %(default)s'
    )
    run_tool(parser, argv, draw)


def draw(args):
    cfg, model = load_network(args)
    data = dataset_images(test_dataloader(cfg), args.images)
    statistics = offset_statistics(model, (network_inputs(model, item)[0] for item in data), scan=args.scan)
    draw_offset_statistics(statistics).savefig(args.out)
    say(*markdown_table(statistics_table(statistics)).split('\n'), '', args.out)
