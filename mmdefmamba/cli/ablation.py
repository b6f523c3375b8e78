"""Train several configs with several seeds each, and write one table of scores, tests and costs, and a plot.

Each config is compared with the first one, seed by seed. The work dir gets table.md, table.csv and table.png. After an
interruption the same command continues where it stopped. With more seeds or configs it adds those. A work dir with runs
of another config is refused.
"""

from pathlib import Path

import torch

from ..apis.zoo import load_config
from ..files import say
from ..paper.ablation_runs import measure_costs, run_once, seconds_of, write_table
from .program import Parser
from .run_options import CfgOptions


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument('configs', nargs='+', help='paths of the configs')
    parser.add_argument('--seeds', type=int, default=5, help='seeds 0 to N-1')
    parser.add_argument('--work-dir', default='work_dirs/ablation', help='folder for all runs')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='change every config')
    parser.add_argument(
        '--shape', type=int, nargs='+', help='size of the images for counting and timing: HEIGHT WIDTH, or one number'
    )
    parser.add_argument(
        '--rounds', type=int, default=5, help='timed passes and steps of each backbone; 0 measures no time'
    )
    parser.add_argument('--batch', type=int, default=32, help='images per timed pass')
    parser.add_argument('--metrics', nargs='+', metavar='NAME', help='metrics of the table, such as mIoU; default: all')
    args = parser.parse_args(argv)
    cfgs = {}
    for path in args.configs:
        cfgs[Path(path).stem] = load_config(path)
        cfgs[Path(path).stem].merge_from_dict(args.cfg_options or {})
    if len(cfgs) < len(args.configs):
        parser.error('two configs have the same file name, so their runs would share a folder')
    work_dir = Path(args.work_dir)
    results = {name: [] for name in cfgs}
    # seeds in the outer loop: an interrupted series has compared all configs
    for seed in range(args.seeds):
        for name, cfg in cfgs.items():
            results[name].append(run_once(cfg, seed, work_dir / name))
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    costs = measure_costs(cfgs, args.shape, args.rounds, args.batch, device)
    seconds = {name: seconds_of(work_dir / name, args.seeds) for name in cfgs}
    for name, each in seconds.items():
        if each:
            costs[name]['train s'] = sum(each) / len(each)
    table = write_table(work_dir, results, costs, args.metrics)
    timed = [second for each in seconds.values() for second in each]
    say(*table.split('\n'), *(['', f'{len(timed)} runs took {sum(timed) / 3600:.2f} hours.'] if timed else []))
