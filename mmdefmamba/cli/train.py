"""Train a model: classification, detection or segmentation."""

from .. import report
from ..engine.distributed import end_distributed_run
from ..engine.start_log import StartSummaryHook
from ..guards.config_errors import explain_errors
from . import run_options as cli


def main(argv=None):
    args = cli.train_parser().parse_args(argv)
    cfg = cli.train_config(args)
    with explain_errors(cfg):
        runner = cli.build_runner(cfg)
        runner.register_hook(StartSummaryHook())
        runner.train()
    if args.report:
        report.write_train_report(runner, args.report)
    end_distributed_run()
