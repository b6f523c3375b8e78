"""Print the measurements of docs/fidelity.md: the two formulations, and parity with the authors' recorded numbers."""

from mmdefmamba.cli.compare_formulations import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
