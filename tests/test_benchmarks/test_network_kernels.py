"""Every Triton kernel that a training step of a network launches compiles for a GPU, which need not be present.

Triton's interpreter runs code that the compiler refuses: types that change in a loop, for one.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# With the arguments of the network: slices where they lie, and numbers that are specialised
SCRIPT = """
import json
import sys

import torch
from inspect_kernels import compile_launch, machine_code
from traffic import count

launches = {}


def keep(kernel, args, kwargs):
    key = kernel.__name__, str([x.dtype if isinstance(x, torch.Tensor) else x for x in args]), str(kwargs)
    if any(name in kernel.fn.__module__ for name in sys.argv[1].split(',')):
        launches[key] = kernel, args, kwargs


for formulation in sys.argv[2:]:
    options = dict(passes=('training',), formulation=formulation, on_kernel=keep)
    count({'embed_dims': (32,), 'depths': (1,)}, 2, torch.bfloat16, 32, **options)
found = []
for kernel, args, kwargs in launches.values():
    code, registers, stack = machine_code(compile_launch(kernel, args, {'num_warps': 4, **kwargs}, 90))
    found.append([kernel.__name__, registers, code.count('LDL') + code.count('STL')])
print(json.dumps(found))
"""
pytestmark = pytest.mark.skipif(importlib.util.find_spec('triton') is None, reason='triton is not installed')


def compile_all(module, *formulations):
    """Compile the kernels of modules; return (name, registers, instructions that spill) of each.

    Args:
        module: a part of the names of the modules; several with commas between them.
    """
    environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    environment['PYTHONPATH'] = os.pathsep.join([str(ROOT / 'benchmarks'), os.environ.get('PYTHONPATH', '')])
    command = [sys.executable, '-c', SCRIPT, module, *formulations]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.usefixtures('fake_cuda')
def test_kernels_that_read_at_offsets_and_those_of_the_ffn_compile_for_sm90():
    found = compile_all('offset_kernels,gelu_kernels,triton_scan.rows', 'paper')
    at_offsets = {'offset_forward', 'offset_backward', 'table_parts', 'offset_table_backward'}
    assert {name for name, *_ in found} == at_offsets | {'gelu_forward', 'gelu_backward', 'sum_rows'}
    assert all(registers <= 128 for _, registers, _ in found), found
    assert all(spills == 0 for name, _, spills in found if name != 'offset_table_backward'), found


@pytest.mark.sweep
def test_all_kernels_of_a_network_compile_for_sm90():
    found = compile_all('mmdefmamba', 'paper', 'released')
    assert len(found) > 10 and all(registers <= 255 for _, registers, _ in found)
