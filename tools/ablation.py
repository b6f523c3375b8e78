"""Train several configs with several seeds each, and write one table of scores and costs, and a plot."""

from mmdefmamba.cli.ablation import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
