"""A selection of the tests with the marker ``ptx``: compiled kernels in the emulator, in a process of their own.

All of them take some minutes: `TRITON_INTERPRET=0 python -m pytest -m ptx tests/test_ptx`.
"""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.utils import digit_version

TESTS = Path(__file__).parents[1]


def missing():
    """Return why kernels cannot be compiled here, or None."""
    found = importlib.util.find_spec('triton')
    if found is None:
        return 'triton is not installed'
    version = importlib.metadata.version('triton')
    if digit_version(version) < digit_version('3.6'):
        return f'the emulator needs triton 3.6 or newer, {version} is installed'
    if not (Path(found.origin).parent / 'backends/nvidia/bin/ptxas').exists():
        return 'triton was installed without its compiler for NVIDIA GPUs (ptxas)'
    return None


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_compiled_kernels_pass_in_the_emulator(tmp_path):
    files = [path for path in sorted(TESTS.rglob('test_*.py')) if 'pytest.mark.ptx' in path.read_text()]
    files.remove(Path(__file__))
    env = {name: value for name, value in os.environ.items() if not name.startswith('PYTEST_')}
    env |= dict(TRITON_INTERPRET='0', TRITON_CACHE_DIR=str(tmp_path), CUDA_VISIBLE_DEVICES='')
    command = [sys.executable, '-m', 'pytest', '-q', '-m', 'ptx and not sweep', '--tb=short', *map(str, files)]
    done = subprocess.run(command, cwd=TESTS.parent, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-20000:]
    passed = re.search(r'(\d+) passed', done.stdout)
    assert int(passed[1]) >= len(files) and 'skipped' not in done.stdout.splitlines()[-1], done.stdout[-5000:]
