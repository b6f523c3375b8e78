"""Draw the limitation of figure 6 of the paper for an image: the whole of it, a part, and a regular pattern of it."""

import argparse
from pathlib import Path

import mmdefmamba  # noqa: F401  registers the backbone and mends the environment
from mmdefmamba.apis.zoo import get_model, load_config
from mmdefmamba.engine.cli import CfgOptions
from mmdefmamba.visualization.scan_figures import limitation_figure


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of a config of any of the three tasks')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('image', help='file of one object')
    parser.add_argument('--stage', type=int, default=1, help='of the backbone, from 0, default %(default)s')
    parser.add_argument('--block', type=int, default=-1, help='of the stage, from 0, by default the last')
    parser.add_argument('--tiles', type=int, default=3, help='copies along a side of the pattern, default %(default)s')
    parser.add_argument('--out', type=Path, default=Path('limitation_cases.png'), help='file, default %(default)s')
    parser.add_argument('--device', help='cpu, cuda, ..., by default the CPU')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='change the config')
    args = parser.parse_args(argv)
    try:
        cfg = load_config(args.config)
        cfg.merge_from_dict(args.cfg_options or {})
        model = get_model(cfg, args.checkpoint, args.device)
        limitation_figure(model, args.image, args.stage, args.block, args.tiles).savefig(args.out)
    except (OSError, ValueError) as error:
        parser.exit(2, f'{parser.prog}: error: {error}\n')
    print(args.out)


if __name__ == '__main__':
    main()
