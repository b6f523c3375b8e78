"""Draw the paths of all registered scans that need no trained network, like figure 1 of the paper."""

from mmdefmamba.cli.draw_static_scans import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
