"""Train a model: classification, detection or segmentation."""

from ..engine.agreement import AgreementHook
from ..engine.interruption import interruptible
from ..engine.start_log import StartSummaryHook
from ..guards.config_errors import explain_errors
from . import run_options as cli
from .start import started


def main(argv=None):
    args = cli.train_parser().parse_args(argv)
    with started(args, cli.train_config, alone=True) as cfg, interruptible(cfg), explain_errors(cfg):
        runner = cli.build_runner(cfg)
        runner.register_hook(AgreementHook())
        runner.register_hook(StartSummaryHook())
        runner.train()
        if args.report:
            from .. import report  # not above: it takes seconds to import, and every process would

            report.write_train_report(runner, args.report)
