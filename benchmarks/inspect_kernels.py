"""Compile the Triton kernels for a GPU, which need not be present, and count their registers and instructions.

The script launches the kernels on tensors without data and records the arguments instead of running the kernels. It
compiles them for the given compute capability and reads the machine code: registers, spilled bytes, and instructions in
the loop over tokens, per token, warp and group of 16 states. They are counted as they stand in the code, with branches
that are rarely taken. It measures no time.

With --network it compiles instead each kernel that a training step of a backbone launches, with the arguments of that
step: slices at their pitch, unaligned where they are. It shows registers and spilled bytes.
"""

import argparse
import collections
import os
import re
import subprocess
import tempfile
from pathlib import Path

import torch
import triton
from launches import recorded_launches
from timing import print_table
from traffic import count
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmdefmamba.ops.triton_scan import ScanOptions, launch, use_scan_options

CASES = {
    'row by row': dict(ordered=False, training=False),
    'with an order': dict(training=False),
    'training': {},
    'in chunks': dict(chunk_length=512),
}
TOOLS = Path(triton.__file__).parent / 'backends/nvidia/bin'
TRITON_TYPES = {
    torch.float32: 'fp32',
    torch.bfloat16: 'bf16',
    torch.float16: 'fp16',
    torch.int32: 'i32',
    torch.int64: 'i64',
}


def record(batch, scans, length, channels, states, dtype, ordered=True, chunk_length=0, training=True):
    """Return the launches of one multi-scan, and of its backward if ``training``. There are two maps of tokens.

    With ``ordered`` the last scan has an order.
    """

    def empty(*shape, dtype=dtype):
        return torch.empty(shape, dtype=dtype, device='meta')

    rank, projections = -(-channels // 16), -(-channels // 16) + 2 * states
    maps = [empty(batch, 1, length, channels) for _ in range(2)]
    # the scans of the first map share one matrix product, and read its slices where they lie
    of_maps = [empty(batch, length, max(scans - 1, 1) * projections), empty(batch, length, projections)]
    rows = [rows for x in of_maps for rows in x.split(projections, dim=-1)][:scans]
    inputs = [
        *(maps, rows, None, empty(scans, channels, rank, dtype=torch.float32)),
        empty(scans * channels, states, dtype=torch.float32),
        *(empty(scans * channels, dtype=torch.float32) for _ in range(2)),
        empty(1, batch, length, dtype=torch.int32) if ordered else None,
        *([0, 4, 1 | ordered << 3][-scans:], True, True, chunk_length),
    ]
    with recorded_launches() as launches:
        y, checkpoints = launch.launch_forward(*inputs, training)
        if training:
            # the merge of the scans gives each of them the same gradient
            launch.launch_backward(y[:, :1].expand_as(y), checkpoints, *inputs)
    return launches


def compile_launch(kernel, args, kwargs, capability):
    """Compile a kernel for the arguments of a launch, specialised as Triton does at run time."""
    options = {k: v for k, v in kwargs.items() if k in ('num_warps', 'maxnreg')}
    values = dict(zip(kernel.arg_names, args, strict=False), **kwargs)
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = '*' + TRITON_TYPES[value.dtype]
            # as Triton does by the pointer: the memory of a tensor begins aligned, a slice of it need not
            begins_aligned = value.storage_offset() * value.element_size() % 16 == 0
            aligned = begins_aligned and not parameter.do_not_specialize_on_alignment
        elif parameter.is_constexpr or value is None or (value == 1 and not parameter.do_not_specialize):
            signature[parameter.name] = 'constexpr'
            constants[(i,)] = value
            continue
        else:
            signature[parameter.name] = 'i64' if value > 2**31 - 1 else 'i32'
            aligned = value % 16 == 0 and not parameter.do_not_specialize
        if aligned:
            attributes[(i,)] = [['tt.divisibility', 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget('cuda', capability, 32), options=options)


def machine_code(compiled):
    """Return disassembly, registers and spilled bytes of a compiled kernel."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'kernel.cubin')
        path.write_bytes(compiled.asm['cubin'])
        code = subprocess.run([TOOLS / 'nvdisasm', '-c', path], capture_output=True, text=True, check=True).stdout
        usage = subprocess.run([TOOLS / 'cuobjdump', '-res-usage', path], capture_output=True, text=True, check=True)
    registers, stack = re.search(r'REG:(\d+) STACK:(\d+)', usage.stdout + usage.stderr).groups()
    return code, int(registers), int(stack)


def innermost_loops(code):
    """Return the instruction counts, by name, of each innermost loop, in the order of the code."""
    lines = code.splitlines()
    labels = {match[1]: i for i, line in enumerate(lines) if (match := re.match(r'\s*(\.L_x_\d+):', line))}
    loops = []
    for i, line in enumerate(lines):
        branch = re.search(r'BRA.*`\((\.L_x_\d+)\)', line)
        if branch and labels.get(branch[1], i) < i:
            loops.append((labels[branch[1]], i))
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    counts = []
    for begin, end in sorted(inner):
        names = re.findall(r'/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_.]+)', '\n'.join(lines[begin : end + 1]))
        counts.append(collections.Counter(name.split('.')[0] for name in names))
    # leave out branches to themselves, where a program waits or ends
    return [count for count in counts if sum(count.values()) > 10]


def inspect(kernel, args, kwargs, capability):
    """Return one row per loop over tokens: registers, spilled bytes, and instructions per token."""
    code, registers, stack = machine_code(compile_launch(kernel, args, kwargs, capability))
    tokens = kwargs.get('T', 1)
    rows = []
    for loop in innermost_loops(code):
        counts = [sum(loop.values()), loop['MUFU'], loop['SHFL'], loop['LDL'] + loop['STL']]
        rows.append([registers, stack, *(f'{count / tokens:.0f}' for count in counts)])
    return rows


def network_rows(args, dtype):
    """Return one row per kernel that a training step of a network launches, over all its specialisations."""
    found, launches = {}, collections.Counter()

    def keep(kernel, arguments, options):
        found[kernel, str([_kind(x) for x in arguments]), str(options)] = kernel, arguments, options
        launches[kernel.__name__] += 1

    count(args.network, 128, dtype, 224, passes=('training',), on_kernel=keep)
    usage = collections.defaultdict(list)
    for kernel, arguments, options in found.values():
        # 4 warps are what Triton takes where a launch does not say how many
        _, *used = machine_code(compile_launch(kernel, arguments, {'num_warps': 4, **options}, args.capability))
        usage[kernel.__name__].append(used)
    rows = []
    for name, used in sorted(usage.items()):
        registers, stacks = zip(*used, strict=True)
        rows.append([name, launches[name], len(used), f'{min(registers)} to {max(registers)}', max(stacks)])
    return rows


def _kind(x):
    """Return what Triton specialises a kernel for: dtype and alignment of a tensor, divisibility of an integer."""
    if isinstance(x, torch.Tensor):
        return x.dtype, x.storage_offset() * x.element_size() % 16 == 0
    return (x == 1, x % 16 == 0, x > 2**31 - 1) if isinstance(x, int) else x


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--capability', type=int, default=90, help='compute capability, 90 for H100 and H200')
    parser.add_argument('--dtype', default='bfloat16', choices=['float32', 'bfloat16', 'float16'])
    parser.add_argument('--states', type=int, default=16)
    parser.add_argument('--channels', type=int, default=96, help='96 is stage 1 of small; a sixteenth is the rank')
    parser.add_argument(
        '--largest-rank',
        type=int,
        default=ScanOptions.largest_rank,
        help='largest rank of a time step that the scans project themselves; with 0 they read time steps',
    )
    parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES))
    parser.add_argument('--network', metavar='ARCH', help='the kernels of a network, such as small')
    args = parser.parse_args()
    if launch.INTERPRETED or os.environ.get('TRITON_INTERPRET') == '1':
        raise SystemExit('inspect_kernels.py compiles kernels, but TRITON_INTERPRET=1 is set: unset it')

    dtype = getattr(torch, args.dtype)
    if args.network:
        setting = f'sm_{args.capability}, {args.dtype}, Triton {triton.__version__}'
        print(f'{setting}: a training step of {args.network}, batch 128 at 224 x 224')
        print_table(['kernel', 'launches', 'compiled', 'registers', 'most bytes spilled'], network_rows(args, dtype))
        return
    sizes = dict(batch=8, scans=3, length=3136, channels=args.channels, states=args.states, dtype=dtype)
    with use_scan_options(largest_rank=args.largest_rank):
        cases = {name: record(**sizes, **CASES[name]) for name in args.cases}
    setting = f'sm_{args.capability}, {args.dtype}, {args.channels} channels, N = {args.states}'
    print(f'{setting}, Triton {triton.__version__}; instructions per token')
    rows, seen = [], set()
    for case, launches in cases.items():
        for kernel, arguments, options in launches:
            key = (kernel.__name__, str([type(a) for a in arguments]), str(options))
            # sum_rows has no loop over tokens
            if key not in seen and kernel.__name__ != 'sum_rows':
                seen.add(key)
                name = kernel.__name__ + (' (adjoint)' if options.get('ADJOINT') else '')
                rows += [[name, case, *row] for row in inspect(kernel, arguments, options, args.capability)]
    header = ['kernel', 'case', 'registers', 'bytes spilled', 'instructions', 'special function', 'shuffles', 'spills']
    print_table(header, rows)


if __name__ == '__main__':
    main()
