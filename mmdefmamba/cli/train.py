"""Train a model: classification, detection or segmentation."""

from .. import report
from ..engine.distributed import end_distributed_run
from ..engine.interruption import TrainingInterrupted, end_with_torchrun, interruptible
from ..engine.start_log import StartSummaryHook
from ..guards.config_errors import explain_errors
from . import run_options as cli


def main(argv=None):
    args = cli.train_parser().parse_args(argv)
    end_with_torchrun()
    cfg = cli.train_config(args)
    with interruptible(cfg), explain_errors(cfg):
        runner = cli.build_runner(cfg)
        runner.register_hook(StartSummaryHook())
        try:
            runner.train()
        except TrainingInterrupted:
            end_distributed_run()
            raise
    if args.report:
        report.write_train_report(runner, args.report)
    end_distributed_run()
