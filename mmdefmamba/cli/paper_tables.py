"""Print DefMamba's rows of the paper's tables 1-5, B2 and C3 with our parameters, FLOPs and measured scores."""

import argparse
import contextlib
import sys

from ..paper.tables import paper_tables


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--tables', nargs='+', metavar='TABLE', help='some of 1 2 B2 3 C3 4 5, default all (minutes)')
    args = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # where the libraries may log: the output is the tables alone
        tables = paper_tables(args.tables)
    print(tables)
