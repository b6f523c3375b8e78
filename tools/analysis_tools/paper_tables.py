"""Print the rows of DefMamba in tables 1-5, B2 and C3 of the paper, with our parameters, FLOPs and measured scores."""

from mmdefmamba.cli.paper_tables import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
