"""Test a checkpoint: classification, detection or segmentation."""

import mmengine
from mmengine.dist import is_main_process

from ..guards.config_errors import explain_errors
from . import run_options as cli
from .start import started


def main(argv=None):
    args = cli.test_parser().parse_args(argv)
    with started(args, cli.test_config) as cfg, explain_errors(cfg):
        runner = cli.build_runner(cfg)
        if args.out and args.out_item == 'pred':
            cli.add_dump(runner, args.out)
        if args.report:
            from .. import report  # not above: it takes seconds to import, and every process would

            cases = report.watch_test(runner)
        metrics = runner.test()
        if args.out and args.out_item == 'metrics' and is_main_process():
            mmengine.dump(metrics, args.out)
        if args.report:
            report.write_test_report(runner, cases, metrics, args.report, args.tta, args.cfg_options)
