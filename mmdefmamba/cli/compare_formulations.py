"""Print the measurements of docs/fidelity.md: the two formulations, and parity with the authors' recorded numbers."""

from pathlib import Path

from ..analysis.markdown import markdown_table
from ..files import say
from ..paper import formulation_report as report
from .program import Parser

WHAT = ('parity', 'distances', 'keys', 'borders', 'bias', 'cost')


def main():
    parser = Parser(description=__doc__)
    parser.add_argument('--only', nargs='+', choices=WHAT, default=WHAT, help='what to measure; default: everything')
    parser.add_argument('--data', type=Path, default='tests/data/released', help='folder of the recorded network')
    parser.add_argument('--device', default='cpu', help='where to measure the parity')
    parser.add_argument('--plots', type=Path, help='folder for the plots')
    args = parser.parse_args()
    file = args.data / 'checkpoint.pth'
    if 'parity' in args.only:
        say(*markdown_table(report.parity_table(file, args.data / 'expected.pth', args.device)).split('\n'), '')
    if 'distances' in args.only:
        measured = report.measured_distances(file)
        for name, rows in report.distance_tables(measured):
            say(name, '', *markdown_table(rows).split('\n'), '')
        if args.plots:
            report.plot_distances(measured, args.plots / 'formulation_distances.png')
    if 'keys' in args.only:
        say(*markdown_table(report.key_table(file)).split('\n'), '')
    if 'borders' in args.only:
        say(*markdown_table(report.border_table()).split('\n'), '')
    if 'bias' in args.only:
        say(*markdown_table(report.bias_table()).split('\n'), '')
    if 'cost' in args.only:
        say(*markdown_table(report.cost_table()).split('\n'), '')
    if args.plots:
        report.plot_reads(args.plots / 'formulation_reads.png')
