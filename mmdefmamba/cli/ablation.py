"""Train several configs with several seeds each; write one table of scores and costs, and a plot.

table.md, table.csv and table.png go to the work dir. Interrupted, the same command goes on where it stopped; with more
seeds or configs, it adds those.
"""

import argparse
from pathlib import Path

import torch
from mmengine.config import Config

from ..paper.ablation_runs import measure_costs, run_once, write_table
from .run_options import CfgOptions


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', help='paths of the configs')
    parser.add_argument('--seeds', type=int, default=5, help='seeds 0 to N-1')
    parser.add_argument('--work-dir', default='work_dirs/ablation', help='folder of all runs')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='change every config')
    parser.add_argument(
        '--shape', type=int, nargs='+', help='of the images to count and time with: HEIGHT WIDTH, or one'
    )
    parser.add_argument('--rounds', type=int, default=5, help='passes to time each backbone with; 0 times nothing')
    parser.add_argument('--batch', type=int, default=32, help='images a timed pass')
    args = parser.parse_args(argv)
    cfgs = {}
    for path in args.configs:
        cfgs[Path(path).stem] = Config.fromfile(path)
        cfgs[Path(path).stem].merge_from_dict(args.cfg_options or {})
    if len(cfgs) < len(args.configs):
        parser.error('two configs of the same file name would share a folder')
    work_dir = Path(args.work_dir)
    results = {name: [] for name in cfgs}
    # seeds outside: a series that is cut short has compared all configs
    for seed in range(args.seeds):
        for name, cfg in cfgs.items():
            results[name].append(run_once(cfg, seed, work_dir / name))
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    print(write_table(work_dir, results, measure_costs(cfgs, args.shape, args.rounds, args.batch, device)))
