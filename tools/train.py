"""Train a model: classification, detection or segmentation."""

import mmdefmamba  # noqa: F401  mends what the libraries need before they are imported
from mmdefmamba import report
from mmdefmamba.engine import cli
from mmdefmamba.engine.config_errors import explain_errors


def main(argv=None):
    args = cli.train_parser().parse_args(argv)
    cfg = cli.train_config(args)
    with explain_errors(cfg):
        runner = cli.build_runner(cfg)
        runner.train()
    if args.report:
        report.write_train_report(runner, args.report)


if __name__ == '__main__':
    main()
