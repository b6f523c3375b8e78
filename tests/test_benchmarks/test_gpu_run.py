"""``benchmarks/gpu.sh`` without a GPU: real processes, time limits, tables and archive, and invented times."""

import importlib
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / 'benchmarks'


def rehearse(out, *arguments):
    """Run gpu.sh; return its exit status, what it printed, and the files of its archive."""
    wheels = out.parent / 'wheels'
    wheels.mkdir()
    command = ['bash', BENCHMARKS / 'gpu.sh', *arguments, '--rehearse', '--out', out, '--wheels', wheels]
    environment = {**os.environ, 'PYTHON': sys.executable}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, cwd=out.parent)
    with tarfile.open(out) as tar:
        files = {Path(name).name: tar.extractfile(name).read().decode() for name in tar.getnames()}
    return done.returncode, done.stdout + done.stderr, files


@pytest.fixture
def gpu_run(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module('gpu_run')


def test_a_part_that_fails_and_one_that_hangs_do_not_end_the_others(tmp_path):
    start = time.monotonic()
    status, screen, files = rehearse(tmp_path / 'out.tar.gz', '--parts', 'fails', 'hangs', 'device')
    assert status == 3, screen  # no test failed
    results = json.loads(files['results.json'])
    assert {name: result['outcome'] for name, result in results.items()} == {
        'device': 'ok',
        'fails': 'failed (exit status 1)',
        'hangs': 'out of time',
    }
    assert time.monotonic() - start < 300  # the part that hangs would take 600 s
    assert 'RuntimeError: this part fails on purpose' in files['fails.log'] and 'on purpose' in screen
    for row in (
        'a row that is kept',
        'a row that is kept, too',
        'matrix product 64, bfloat16',
    ):  # what was measured stays
        assert f'| {row} |' in files['tables.md'] and f'| {row} |' in screen
    assert 'REHEARSAL, all times are invented' in screen
    assert (tmp_path / 'out.tar.gz').stat().st_size < 50_000


@pytest.mark.sweep
@pytest.mark.parametrize('command', ['decide', 'more'])
def test_every_part_of_a_command_runs_without_a_gpu(command, tmp_path):
    status, screen, files = rehearse(tmp_path / 'out.tar.gz', command)
    results = json.loads(files['results.json'])
    assert status == 3
    assert {name: result['outcome'] for name, result in results.items()} == {
        **dict.fromkeys(set(results) - {'fails', 'hangs'}, 'ok'),
        'fails': 'failed (exit status 1)',
        'hangs': 'out of time',
    }, screen
    errors = [line for line in files['tables.md'].splitlines() if 'Error:' in line and 'on purpose' not in line]
    assert not errors, errors
    assert all(result['tables'][0]['rows'] for result in results.values())
    assert len(screen) < 14_000


def test_exit_status_tells_whether_tests_failed(gpu_run):
    ok, failed, late = ({'outcome': outcome} for outcome in ('ok', 'failed (exit status 1)', 'out of time'))
    assert gpu_run.status({'tests': ok, 'scan': ok}) == 0
    assert gpu_run.status({'tests': failed, 'scan': late}) == 1
    assert gpu_run.status({'tests': late, 'scan': ok}) == 1
    assert gpu_run.status({'tests': ok, 'scan': late}) == 3


def test_each_command_takes_less_than_nine_minutes(gpu_run):
    for parts in gpu_run.COMMANDS.values():
        assert sum(parts.values()) <= 540 - 30


def test_long_tables_are_cut_on_the_screen_and_complete_in_the_archive(gpu_run, tmp_path):
    text = ''.join(f'| row {i} |\n' for i in range(5000))
    screen = gpu_run.shortened(text, tmp_path / 'out.tar.gz')
    assert len(screen) < gpu_run.SCREEN + 300
    assert screen.startswith('| row 0 |') and '| row 4999 |' in screen and 'the rest is in tables.md' in screen
    assert all(line == '' or line.endswith('|') or line.startswith(('...', '->')) for line in screen.splitlines())


def test_a_part_ends_with_all_processes_that_it_started(gpu_run, tmp_path):
    """What hangs may be a child, such as pytest or a compiler: it would keep the GPU."""
    code = (
        'import os, subprocess, sys, time; p = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])'
    )
    code += f'; open({str(tmp_path / "pid")!r}, "w").write(str(p.pid)); time.sleep(99)'
    process = subprocess.Popen([sys.executable, '-c', code], start_new_session=True)
    while not (tmp_path / 'pid').exists() or not (tmp_path / 'pid').read_text():
        time.sleep(0.02)
    child = int((tmp_path / 'pid').read_text())
    gpu_run.kill_group(process)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and alive(child):
        time.sleep(0.02)
    assert process.returncode and not alive(child)


def alive(pid):
    """Return whether a process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except FileNotFoundError:
        return False
    return state != 'Z'


def test_gpu_tests_are_found_by_their_text(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = importlib.import_module('gpu_parts').gpu_tests()
    assert 'tests/test_models/test_numbers.py' in found['marked']
    assert {'tests/test_ops/test_triton_scan.py', 'tests/test_ops/test_depthwise_triton.py'} <= set(found['device'])


def test_limits_are_those_of_the_device(monkeypatch):
    """The model: 23.1 us of exponentials and 20 us of the rest on an H200. An H100 moves 3 TB/s."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    limit_of = importlib.import_module('networks').limit_of
    assert limit_of('small', False, 132, 4.3) == pytest.approx(23_202, rel=1e-3)
    assert limit_of('small', False, 132, 3.0) == pytest.approx(1e6 / (23.1 + 20 * 4.3 / 3))
    assert limit_of('small', False, 66, 4.3) == pytest.approx(1e6 / (46.2 + 20))
    assert limit_of('small', True, 132, 4.3) == pytest.approx(7_092, rel=1e-3)
