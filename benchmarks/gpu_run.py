"""Run the parts of ``gpu.sh``, each in a process with a time limit, and gather their tables. See ``gpu.sh``.

This file imports the standard library only: a part whose imports fail must not end the others.
"""

import argparse
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
# What one command may print and leave behind, so that nothing is lost on the way back from another machine
SCREEN, LOG = 11_000, 300_000
#: command -> its parts with their limits in seconds. The sum leaves half a minute of nine minutes.
COMMANDS = {
    'decide': {'device': 40, 'networks': 120, 'tests': 130, 'scan': 120, 'operators': 60, 'profile': 40},
    'more': {'device': 30, 'compile': 200, 'tasks': 140, 'memory': 70, 'mamba': 60},
}
REHEARSAL = {'fails': 30, 'hangs': 2}
PASSED, TESTS_FAILED, WRONG_USE, PART_FAILED = 0, 1, 2, 3


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('command', nargs='?', default='decide', choices=COMMANDS)
    parser.add_argument('--parts', nargs='+', metavar='PART')
    parser.add_argument('--wheels', type=Path, help='folder of wheels; by default `wheels`, if it exists')
    parser.add_argument('--out', type=Path, default=Path('gpu_results.tar.gz'))
    parser.add_argument('--rehearse', action='store_true')
    args = parser.parse_args(argv)
    parts = COMMANDS[args.command] | (REHEARSAL if args.rehearse else {})
    unknown = sorted(set(args.parts or ()) - set(parts))
    if unknown:
        parser.error(f'there are no parts {unknown}: `{args.command}` has {", ".join(parts)}')
    if args.wheels is not None and not args.wheels.is_dir():
        parser.error(f'--wheels {args.wheels} is no folder: `make gpu-wheels` collects the wheels into `wheels`')
    parts = {name: limit for name, limit in parts.items() if name in (args.parts or parts)}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        environment = prepared(args, folder)
        # the parts compile kernels at the same time as others, and find what an earlier part has compiled
        outcomes = {}
        for name, limit in parts.items():
            outcomes[name] = run(name, limit, args.rehearse, folder, environment)
            print(f'{name}: {outcomes[name]["outcome"]}, {outcomes[name]["seconds"]:.0f} s of {limit}', flush=True)
        results = {name: {**outcome, 'tables': tables(folder, name)} for name, outcome in outcomes.items()}
        logs = {name: (folder / f'{name}.log').read_text(errors='replace')[-LOG:] for name in parts}
    text = report(args, results, logs)
    archive(args.out, {'tables.md': text, 'results.json': json.dumps(results, indent=1), **named(logs)})
    print(shortened(text, args.out))
    return status(results)


def prepared(args, folder):
    """Return the environment of the parts. Wheels are installed into a folder that lasts as long as this run."""
    environment = dict(os.environ)
    path = [str(ROOT), environment.get('PYTHONPATH', '')]
    wheels = args.wheels or (ROOT / 'wheels' if (ROOT / 'wheels').is_dir() else None)
    if wheels is not None:
        site = folder / 'site'
        for wheel in install(sorted(wheels.glob('*.whl')), site):
            print(f'cannot be installed here, the run goes on without it: {wheel.name}')
        path.insert(0, str(site))
    environment['PYTHONPATH'] = os.pathsep.join(filter(None, path))
    environment['MPLBACKEND'] = 'Agg'
    if args.rehearse:
        environment['TRITON_INTERPRET'] = '1'
        environment['OMP_NUM_THREADS'] = '1'
    return environment


def install(wheels, site):
    """Install wheels into a folder, without network; return those that do not fit this Python."""
    command = [
        sys.executable,
        '-m',
        'pip',
        'install',
        '-q',
        '--no-index',
        '--no-deps',
        '--no-compile',
        '--target',
        site,
    ]
    if not wheels or subprocess.run([*command, *wheels], capture_output=True).returncode == 0:
        return []
    # one that does not fit stops pip altogether
    return [wheel for wheel in wheels if subprocess.run([*command, wheel], capture_output=True).returncode]


def run(name, limit, rehearse, folder, environment):
    """Run one part; return its outcome: 'ok', 'failed (exit status N)' or 'out of time', and its seconds."""
    command = [sys.executable, '-u', BENCHMARKS / 'gpu_parts.py', name, '--out', folder / f'{name}.json']
    command += ['--seconds', limit, *(['--rehearse'] if rehearse else [])]
    start = time.monotonic()
    with open(folder / f'{name}.log', 'w') as log:
        process = subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=log, env=environment, cwd=ROOT, start_new_session=True
        )
        try:
            code = process.wait(limit)
            outcome = 'ok' if code == 0 else f'failed (exit status {code})'
        except subprocess.TimeoutExpired:
            outcome = 'out of time'
        finally:
            kill_group(process)
    return {'outcome': outcome, 'seconds': round(time.monotonic() - start, 1), 'limit': limit}


def kill_group(process):
    """End a process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):  # all of them have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tables(folder, name):
    """Return the tables that a part has written, also if it did not end: a list of title, header and rows."""
    path = folder / f'{name}.json'
    return json.loads(path.read_text()) if path.exists() else []


def report(args, results, logs):
    """Return all tables as text: what went wrong first, with the last lines of its log."""
    lines = ['# ' + ('REHEARSAL, all times are invented: ' if args.rehearse else '') + f'gpu.sh {args.command}', '']
    lines += ['| part | outcome | s | limit |', '|---|---|---|---|']
    lines += [f'| {n} | {r["outcome"]} | {r["seconds"]} | {r["limit"]} |' for n, r in results.items()]
    for name, result in results.items():
        if result['outcome'] != 'ok':
            last = [line[:300] for line in logs[name].splitlines() if line.strip()][-6:]
            lines += ['', f'{name}, {result["outcome"]}:', *(f'    {line}' for line in last)]
    for result in results.values():
        for table in result['tables']:
            lines += ['', f'## {table["title"]}', '', '| ' + ' | '.join(table['header']) + ' |']
            lines += ['|' + '---|' * len(table['header'])]
            lines += ['| ' + ' | '.join(map(cell, row)) + ' |' for row in table['rows']]
    return '\n'.join(lines) + '\n'


def cell(value):
    if value is None:
        return '-'
    text = f'{value:.4g}' if isinstance(value, float) else str(value)
    return re.sub(r'\s+', ' ', text).replace('|', '/')[:120]


def shortened(text, out):
    """Return the text, without its middle if it is longer than a screen may be."""
    if len(text) > SCREEN:
        begin, end = text[: SCREEN // 2].rsplit('\n', 1)[0], text[-SCREEN // 2 :].partition('\n')[2]
        text = f'{begin}\n... (the rest is in tables.md of {out})\n{end}'
    return f'{text}\n-> {out}: tables.md, results.json, and a log per part'


def named(logs):
    return {f'{name}.log': text for name, text in logs.items()}


def archive(path, files):
    """Write texts as one compressed archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w:gz') as tar:
        for name, text in files.items():
            data = text.encode()
            info = tarfile.TarInfo(f'gpu_results/{name}')
            info.size, info.mtime = len(data), int(time.time())
            tar.addfile(info, io.BytesIO(data))


def status(results):
    """Return the exit status: 1 if the tests did not all pass, 3 if another part did not end well, else 0."""
    failed = [name for name, result in results.items() if result['outcome'] != 'ok']
    if 'tests' in failed:
        return TESTS_FAILED
    return PART_FAILED if failed else PASSED


if __name__ == '__main__':
    sys.exit(main())
