"""Train several configs with several seeds each and print their last validation's scores as one table.

Interrupted, the same command goes on where it stopped.
"""

import argparse
from pathlib import Path

from mmengine.config import Config

import mmdefmamba  # noqa: F401  registers the backbone and mends the environment
from mmdefmamba.analysis.ablation import run_once, summarise
from mmdefmamba.engine.cli import CfgOptions


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', help='paths of the configs')
    parser.add_argument('--seeds', type=int, default=5, help='seeds 0 to N-1')
    parser.add_argument('--work-dir', default='work_dirs/ablation', help='folder of all runs')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='change every config')
    args = parser.parse_args(argv)
    results = {}
    # seeds outside: a series that is cut short has compared all configs
    for seed in range(args.seeds):
        for path in args.configs:
            cfg = Config.fromfile(path)
            cfg.merge_from_dict(args.cfg_options or {})
            name = Path(path).stem
            results.setdefault(name, []).append(run_once(cfg, seed, Path(args.work_dir) / name))
    print(summarise(results))


if __name__ == '__main__':
    main()
