"""Test a checkpoint: classification, detection or segmentation."""

import mmengine
from mmengine.dist import is_main_process

from .. import report
from ..engine.distributed import end_distributed_run
from ..guards.config_errors import explain_errors
from . import run_options as cli


def main(argv=None):
    args = cli.test_parser().parse_args(argv)
    cfg = cli.test_config(args)
    with explain_errors(cfg):
        runner = cli.build_runner(cfg)
        if args.out and args.out_item == 'pred':
            cli.add_dump(runner, args.out)
        cases = report.watch_test(runner) if args.report else None
        metrics = runner.test()
    if args.out and args.out_item == 'metrics' and is_main_process():
        mmengine.dump(metrics, args.out)
    if args.report:
        report.write_test_report(runner, cases, metrics, args.report, args.tta, args.cfg_options)
    end_distributed_run()
