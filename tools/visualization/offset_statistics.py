"""Print and draw how far the deformable scans of a network move points and tokens, stage by stage."""

import argparse
from pathlib import Path

import mmdefmamba  # noqa: F401  registers the backbone and mends the environment
from mmdefmamba.analysis import offset_statistics
from mmdefmamba.analysis.markdown import markdown_table
from mmdefmamba.analysis.offsets import statistics_table
from mmdefmamba.apis.zoo import get_model, load_config
from mmdefmamba.engine.cli import CfgOptions
from mmdefmamba.visualization import draw_offset_statistics
from mmdefmamba.visualization.inputs import dataset_images, network_inputs, test_dataloader


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of a config of any of the three tasks')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('--images', type=int, default=100, help='of the test set, evenly spread, default %(default)s')
    parser.add_argument('--scan', help='whose order to look at: a name of the scans in the config, default deformable')
    parser.add_argument('--out', type=Path, default=Path('offset_statistics.png'), help='file, default %(default)s')
    parser.add_argument('--device', help='cpu, cuda, ..., by default the CPU')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='change the config')
    args = parser.parse_args(argv)
    try:
        cfg = load_config(args.config)
        cfg.merge_from_dict(args.cfg_options or {})
        model = get_model(cfg, args.checkpoint, args.device)
        data = dataset_images(test_dataloader(cfg), args.images)
        statistics = offset_statistics(model, (network_inputs(model, item)[0] for item in data), scan=args.scan)
        draw_offset_statistics(statistics).savefig(args.out)
    except (OSError, ValueError) as error:
        parser.exit(2, f'{parser.prog}: error: {error}\n')
    print(markdown_table(statistics_table(statistics)), args.out, sep='\n\n')


if __name__ == '__main__':
    main()
