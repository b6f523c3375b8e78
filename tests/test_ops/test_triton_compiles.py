"""The scan kernels compile for a GPU, which need not be present. The interpreter accepts more than the compiler."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.sweep,
    pytest.mark.skipif(importlib.util.find_spec('triton') is None, reason='needs Triton'),
]
COMPILE = """
import ast, sys
sys.path.insert(0, 'benchmarks')
import torch
import inspect_kernels as inspect
from mmdefmamba.ops.triton_scan import use_scan_options

sizes, options = ast.literal_eval(sys.argv[1])
sizes['dtype'] = getattr(torch, sizes.get('dtype', 'bfloat16'))
with use_scan_options(**options):
    launches = inspect.record(**{**dict(batch=8, scans=3, length=200, channels=96, states=16), **sizes})
for kernel, args, kwargs in launches:
    _, registers, _ = inspect.machine_code(inspect.compile_launch(kernel, args, kwargs, 90))
    print('compiled', kernel.__name__, registers)
"""
CASES = {
    'rank 6': ({}, {}),
    'rank 16, float32': (dict(channels=256, dtype='float32'), {}),
    'rank 24, float16': (dict(channels=384, dtype='float16'), {}),
    'no order, one scan': (dict(scans=1, ordered=False), {}),
    '20 states in chunks': (dict(states=20, chunk_length=64), {}),
    '100 states': (dict(states=100), {}),
    'other options in chunks': (
        dict(chunk_length=64),
        dict(forward_block=16, backward_block=16, float32_carry=False, backward_registers=None, largest_rank=0),
    ),
}


@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_kernels_compile_for_hopper(case):
    env = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    done = subprocess.run(
        [sys.executable, '-c', COMPILE, repr(case)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    compiled = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith('compiled')]
    in_chunks = ['chunk_ends', 'pass_carries'] if 'chunk_length' in case[0] else []

    assert [name for name, _ in compiled] == [*in_chunks, 'scan_forward', *in_chunks, 'scan_backward']
    assert all(int(registers) <= 255 for _, registers in compiled)
