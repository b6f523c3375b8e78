"""Train and test a small DefMamba on a CPU and draw its predictions, with data from the installed packages."""

from mmdefmamba.cli.program import run
from mmdefmamba.cli.quickstart import main

if __name__ == '__main__':
    run(main)
