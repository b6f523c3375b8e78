"""Draw the effective receptive field of a stage before and after training."""

from mmdefmamba.cli.draw_receptive_field import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
