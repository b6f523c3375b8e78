"""Print tables 1-5, B2 and C3 of the paper. DefMamba's rows have our parameters, FLOPs and measured scores."""

import contextlib
import sys

from ..files import say
from ..paper.tables import paper_tables
from .program import Parser


def main():
    parser = Parser(description=__doc__)
    parser.add_argument(
        '--tables', nargs='+', metavar='TABLE', help='some of 1 2 B2 3 C3 4 5; default: all, which takes minutes'
    )
    args = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # the libraries may log; stdout gets only the tables
        tables = paper_tables(args.tables)
    say(*tables.split('\n'))
