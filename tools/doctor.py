"""Say whether this environment is broken, and whether it is slow."""

from mmdefmamba.cli.doctor import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
