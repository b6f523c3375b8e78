"""Say whether this environment is broken, and whether it is slow."""

import argparse
import json
import math

from ..doctor import SECTIONS, examine
from ..doctor.sections import FACT, NOTE, PROBLEM
from ..files import say
from ..version import __version__
from .program import Parser

FINE, PROBLEMS, SLOW = 0, 1, 3  # 2 is argparse's
TITLES = {
    'packages': 'Installed',
    'imports': 'Imports and mends',
    'machine': 'Machine',
    'devices': 'Devices',
    'backends': 'Backends of the scan',
    'self_test': 'Self-test against the reference in float64, forward and gradients',
    'speed': 'Speed',
}


def doctor_parser():
    """Return the parser of tools/doctor.py."""
    parser = Parser(
        description='Say whether this environment is broken, and whether it is slow: versions and conflicts, what can '
        'be imported, the machine, which backends of the scan can run and why the others cannot, a self-test of each '
        'of them, and the speed of DefMamba-T against Swin-T. Nothing is changed and nothing is downloaded.',
        epilog='Exit code: 0 if all is fine, 1 if there are problems, 3 if there are none, but the network is slower '
        'than expected on a machine of this kind, 2 for a wrong option.',
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object instead of text')
    parser.add_argument('--no-speed', action='store_true', help='leave out the comparison with Swin-T')
    parser.add_argument('--seconds', type=_seconds, default=20, help='time for the self-test; default: 20')
    return parser


def main(argv=None):
    """Run tools/doctor.py.

    Returns:
        The exit code: ``FINE``, ``PROBLEMS`` or ``SLOW``.
    """
    args = doctor_parser().parse_args(argv)
    names = [name for name in SECTIONS if not (args.no_speed and name == 'speed')]
    if not args.json:
        say(f'mmdefmamba doctor {__version__}')
    reports = examine(
        names, {'self_test': {'seconds': args.seconds}}, (lambda *_: None) if args.json else _print_section
    )
    problems, notes = _findings(reports, PROBLEM), _findings(reports, NOTE)
    slow = [FACT, 'slow', True] in reports.get('speed', [])
    code = PROBLEMS if problems else SLOW if slow else FINE
    if args.json:
        say(*json.dumps(_as_json(reports, problems, notes, code), indent=2).split('\n'))
        return code
    for title, findings in (('Problems', problems), ('Notes', notes)):
        if findings:
            say('', title)
            for number, (section, text) in enumerate(findings, 1):
                say(f'  {number}. {TITLES[section]}: {text}')
    count = f'{len(problems)} problem{"s" * (len(problems) != 1)}'
    say('', f'{count if problems else "slower than expected" if slow else "no problems"} (exit code {code})')
    return code


def _print_section(name, lines):
    say('', TITLES[name])
    for line in lines:
        if line[0] == FACT and line[1] not in ('ratio', 'slow'):
            say(f'  {line[1]:<27}{line[2]}')


def _findings(reports, kind):
    return [(section, line[1]) for section, lines in reports.items() for line in lines if line[0] == kind]


def _as_json(reports, problems, notes, code):
    facts = {section: {line[1]: line[2] for line in lines if line[0] == FACT} for section, lines in reports.items()}
    findings = {
        name: [{'section': section, 'text': text} for section, text in found]
        for name, found in (('problems', problems), ('notes', notes))
    }
    return {'version': __version__, 'exit_code': code, **findings, 'sections': facts}


def _seconds(text):
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f'must be 0 or more seconds, got {text}')
    return value
