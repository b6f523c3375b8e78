"""Run each section of the doctor in a process of its own, and collect what it reports."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback

from ..files import shown

#: section -> the module of this package that has it, and seconds after which it is ended
SECTIONS = {
    'packages': ('packages', 60),
    'imports': ('packages', 300),
    'machine': ('machine', 60),
    'devices': ('machine', 120),
    'backends': ('backends', 120),
    'self_test': ('self_test', 240),
    'speed': ('speed', 240),
}
#: What a line of a report is.
FACT, PROBLEM, NOTE, STEP = 'fact', 'problem', 'note', 'step'
MAX_RESTARTS = 12
_CHILD = (
    'import json, sys; path, package, section, options = json.loads(sys.argv[1]); sys.path[:] = path; '
    'import importlib; importlib.import_module(package + ".sections").run_section(section, options)'
)


class Report:
    """What a section writes to: each line at once, so that the lines before a crash are not lost.

    Args:
        write: takes one line, a list that begins with its kind.
        skip: steps that must not be tried again.
    """

    def __init__(self, write, skip=()):
        self._write, self._skip = write, set(skip)

    def fact(self, label, value):
        """Report something that is neither good nor bad; ``value`` is a text or a number."""
        self._write([FACT, label, value])

    def problem(self, text):
        """Report what does not work, with the remedy."""
        self._write([PROBLEM, text])

    def note(self, text):
        """Report what may not work, or may be slow."""
        self._write([NOTE, text])

    def step(self, name):
        """Say what comes now; return False if it must be left out, since it ended the process before."""
        if name in self._skip:
            return False
        self._write([STEP, name])
        return True


def run_section(section, options):
    """Run a section in this process, and write its report to the stdout that this process started with."""
    lines = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)  # whatever libraries print goes to stderr

    def write(line):
        lines.write(json.dumps(line) + '\n')
        lines.flush()

    module = importlib.import_module(f'.{SECTIONS[section][0]}', __package__)
    report = Report(write, options.pop('skip', ()))
    try:
        getattr(module, section)(report, **options)
    except BaseException as error:  # a library may also call sys.exit
        report.problem(f'this section ended early: {in_one_line(error)}')
    lines.close()
    os._exit(0)  # a broken library must not spoil the end either


def in_one_line(error):
    """Return an error as one line: its type, its text, and the place in foreign code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f' ({shown(frames[-1].filename)}:{frames[-1].lineno})' if frames else ''
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:500]}{place}'


def examine(names=tuple(SECTIONS), options=None, on_section=lambda name, lines: None):
    """Run sections one after another.

    Args:
        names: keys of ``SECTIONS``.
        options: section -> dict of its arguments.
        on_section: called with the name and the lines of each section that has ended.

    Returns:
        dict of section to its lines: (``FACT``, label, value), (``PROBLEM``, text), (``NOTE``, text).
    """
    reports = {}
    for name in names:
        reports[name] = _run(name, (options or {}).get(name, {}))
        on_section(name, reports[name])
    return reports


def _run(section, options):
    found, begun = [], []
    seconds = SECTIONS[section][1]
    for _ in range(MAX_RESTARTS):
        lines, how = _process(section, {**options, 'skip': begun}, seconds)
        steps = [line[1] for line in lines if line[0] == STEP]
        found += [line for line in lines if line[0] != STEP and line not in found]
        if how is None:
            return found
        during = f' during: {steps[-1]}' if steps else ''
        found.append([PROBLEM, f'the process {how[0]}{during}{how[1]}'])
        if not steps:
            return found
        begun += steps
    return found


def _process(section, options, seconds):
    """Return the lines of one process, and how it ended and what it printed last, or None if it ended well."""
    argument = json.dumps([sys.path, __package__, section, options])
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # files, not pipes: processes that a library leaves behind would keep a pipe open
        child = subprocess.Popen(
            [sys.executable, '-c', _CHILD, argument], stdout=out, stderr=err, stdin=subprocess.DEVNULL
        )
        start, how = time.monotonic(), None
        try:
            code = child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            code, how = None, (f'took longer than {time.monotonic() - start:.0f} s', '')
        out.seek(0)
        err.seek(0)
        last = err.read().decode(errors='replace').strip().splitlines()[-1:]
        lines = []
        for line in out.read().decode(errors='replace').splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue  # cut short by the end of the process
    if code:
        how = f'was ended by signal {-code}' if code < 0 else f'ended with exit code {code}'
        how = how, f' ({last[0][:300]})' if last else ''
    return lines, how
