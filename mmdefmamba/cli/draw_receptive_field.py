"""Draw the effective receptive field of a stage before and after training."""

from pathlib import Path

import torch

from ..analysis import effective_receptive_field
from ..apis.zoo import get_model
from ..files import say
from ..visualization import draw_receptive_fields
from ..visualization.inputs import dataset_images, network_inputs, test_dataloader
from .network_options import load_network, network_parser, run_tool


def main(argv=None):
    parser = network_parser(__doc__)
    parser.add_argument('--stage', type=int, default=-1, help='stage of the backbone, from 0; default: the last')
    parser.add_argument(
        '--images', type=int, default=50, help='how many images of the test set, evenly spread; default: %(default)s'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the untrained network; default: %(default)s')
    parser.add_argument(
        '--out', type=Path, default=Path('receptive_field.png'), help='file to write; default: %(default)s'
    )
    run_tool(parser, argv, draw)


def draw(args):
    cfg, trained = load_network(args)
    torch.manual_seed(args.seed)
    untrained = get_model(cfg, device=args.device)
    untrained.init_weights()
    data = dataset_images(test_dataloader(cfg), args.images)
    images = torch.cat([network_inputs(trained, item)[0] for item in data])
    fields = {
        name: effective_receptive_field(model, images, args.stage)
        for name, model in {'before training': untrained, 'after training': trained}.items()
    }
    draw_receptive_fields(fields).savefig(args.out)
    say(args.out)
