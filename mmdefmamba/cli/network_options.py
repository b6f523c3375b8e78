"""What the tools that draw a trained network share: the options that name it, and errors in one line."""

import argparse

from ..apis.zoo import get_model, load_config
from .program import Parser
from .run_options import CfgOptions


def network_parser(description):
    """Return a parser with the options that name a network: config, checkpoint, --device and --cfg-options."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of a config of any of the three tasks')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('--device', help='cpu, cuda, ...; default: cpu')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='change the config')
    return parser


def load_network(args):
    """Return the config and the model that the options of :func:`network_parser` name.

    Raises:
        OSError, ValueError: as :func:`~mmdefmamba.get_model`.
    """
    cfg = load_config(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    return cfg, get_model(cfg, args.checkpoint, args.device)


def run_tool(parser, argv, draw):
    """Call ``draw`` with the parsed options. Print an OSError or ValueError in one line and exit with 2."""
    args = parser.parse_args(argv)
    try:
        draw(args)
    except (OSError, ValueError) as error:
        parser.exit(2, f'{parser.prog}: error: {error}\n')
