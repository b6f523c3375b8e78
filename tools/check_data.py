"""Read the data of a config without training: counts, sizes, what is left out, problems, and a page with samples."""

from mmdefmamba.cli.check_data import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
