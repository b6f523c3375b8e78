"""Print DefMamba's rows of the paper's tables 1-5, B2 and C3 with our parameters, FLOPs and measured scores."""

import argparse
import contextlib
import sys

import mmdefmamba  # noqa: F401  mends what the libraries need before they are imported
from mmdefmamba.analysis.paper_tables import paper_tables


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--tables', nargs='+', metavar='TABLE', help='some of 1 2 B2 3 C3 4 5, default all (minutes)')
    args = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # where the libraries may log: the output is the tables alone
        tables = paper_tables(args.tables)
    print(tables)


if __name__ == '__main__':
    main()
