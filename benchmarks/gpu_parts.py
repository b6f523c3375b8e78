"""The parts of ``gpu.sh``. Each is a function that adds tables to a file, row by row: what is measured stays measured.

With --rehearse everything runs once on the CPU, at tiny sizes, with Triton's interpreter, and the times are invented.
"""

import argparse
import functools
import importlib.util
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: stage -> (channels, side of the map at 224, blocks of DefMamba-S, size of the offset network's kernel)
STAGES = {1: (96, 56, 2, 9), 2: (192, 28, 2, 7), 3: (384, 14, 6, 5), 4: (768, 7, 2, 3)}
NETWORKS = ('small', 'tiny', 'swin_t', 'convnext_t')
#: The options of the scan that a GPU has to decide between, apart from the number of chunks.
OPTIONS = {
    'default': {},
    'no float32 carry': {'float32_carry': False},
    'forward registers 128': {'forward_registers': 128},
    'backward registers free': {'backward_registers': None},
    'backward registers 168': {'backward_registers': 168},
    'blocks of 16': {'forward_block': 16, 'backward_block': 16},
    '2 chunks': {'chunks': 2},
    '4 chunks': {'chunks': 4},
}


class Part:
    """What a part works with: device, sizes, clock, and the file of its tables."""

    def __init__(self, out, seconds, rehearse):
        self.out, self.rehearse = Path(out), rehearse
        self.end = time.monotonic() + seconds
        self.device = 'cpu' if rehearse else 'cuda'
        self.tables = []
        self.invented = itertools.count(1)

    def time_is_up(self, reserve=3):
        """Return whether less than ``reserve`` seconds are left. A rehearsal never stops early."""
        return not self.rehearse and time.monotonic() > self.end - reserve

    def table(self, title, *header):
        """Begin a table."""
        self.tables.append({'title': title, 'header': header, 'rows': []})

    def row(self, *cells):
        """Add a row to the last table, and write all tables."""
        self.tables[-1]['rows'].append(cells)
        self.out.write_text(json.dumps(self.tables))

    def ms(self, make, graph=True, calls=None):
        """Time a function on the GPU.

        Args:
            make: function that returns the function to be timed.
            graph: whether it is recorded as a CUDA graph first, so that launches take no time.
            calls: number of calls; by default as many as take 30 ms, at least 3.

        Returns:
            (milliseconds of one call, ''), or (None, the error).
        """
        try:
            function = make()
            function()
            if self.rehearse:
                return float(next(self.invented)), ''
            return self._measured(function, graph, calls), ''
        except Exception as error:  # a row shows it; the other rows still run
            return None, f'{type(error).__name__}: {error}'.splitlines()[0]

    def _measured(self, function, graph, calls):
        import torch
        from timing import recorded

        run = recorded(function) if graph else function

        def several(count):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(count):
                run()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / count

        calls = calls or max(3, min(200, int(30 / max(several(2), 1e-3))))
        return statistics.median(several(calls) for _ in range(3))


def device(part):
    """The device, its bandwidth for copies, its matrix products, and the limits that follow for the networks."""
    import torch
    from networks import ARCHITECTURES, limit_of

    part.table('The machine', 'what', 'value')
    part.row('Python', sys.version.split()[0])
    part.row('PyTorch', f'{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}')
    for name in ('triton', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'pytest', 'xdist', 'numpy'):
        part.row(name, 'installed' if importlib.util.find_spec(name) else 'MISSING')
    multiprocessors = 132
    if not part.rehearse:
        properties = torch.cuda.get_device_properties(0)
        multiprocessors = properties.multi_processor_count
        memory = properties.total_memory / 2**30
        part.row('device', f'{properties.name}, {multiprocessors} multiprocessors, {memory:.0f} GiB')
        query = [
            'nvidia-smi',
            '--query-gpu=driver_version,clocks.max.sm,clocks.sm,power.limit',
            '--format=csv,noheader',
        ]
        try:
            part.row('driver, clocks, power', subprocess.run(query, capture_output=True, text=True).stdout.strip())
        except OSError as error:
            part.row('driver, clocks, power', f'nvidia-smi does not run: {error}')
    size = 2**10 if part.rehearse else 2**30
    x, y = (torch.empty(size, dtype=torch.uint8, device=part.device) for _ in range(2))
    copy, error = part.ms(lambda: functools.partial(y.copy_, x))
    bandwidth = 2 * size / copy / 1e9 if copy else None
    part.row('copy, read + written', error or f'{bandwidth:.3f} TB/s')
    side = 64 if part.rehearse else 8192
    a, b = (torch.randn(side, side, device=part.device, dtype=torch.bfloat16) for _ in range(2))
    product, error = part.ms(lambda: functools.partial(torch.mm, a, b))
    part.row(f'matrix product {side}, bfloat16', error or f'{2 * side**3 / product / 1e9:.0f} TFLOP/s')
    part.table('Limits of this device by a model, images/s at 224', 'network', 'inference', 'forward + backward')
    for arch in ARCHITECTURES:
        limits = [bandwidth and limit_of(arch, training, multiprocessors, bandwidth) for training in (False, True)]
        part.row(arch, *(limit and round(limit) for limit in limits))


def networks(part):
    """Images per second of whole networks, in inference and training, eager and as a CUDA graph, in turns."""
    import torch
    from networks import build, make_step, unavailable

    reasons = {name: unavailable(name, part.device, torch.bfloat16) for name in NETWORKS}
    names = [name for name, reason in reasons.items() if reason is None]
    batch, size = (1, 8) if part.rehearse else (128, 224)
    images = torch.randn(batch, 3, size, size, device=part.device)
    if part.rehearse:
        names = names[:2]
    for training in (False, True):
        what = 'forward + backward' if training else 'inference'
        part.table(f'Images/s, {what}, batch {batch}, {size} x {size}, bfloat16', 'network', 'eager', 'graph', 'error')
        for name in names:
            if part.time_is_up(10):
                part.row(name, None, None, 'no time left')
                continue
            speeds, errors = [], []
            for mode in ('eager', 'graph'):
                # a network as a part of one step: the memory of its graph is free before the next network comes
                make = functools.partial(step_of, build, make_step, name, images, training)
                ms, error = part.ms(make, graph=mode == 'graph', calls=5 if training else 10)
                speeds.append(ms and round(batch / ms * 1e3))
                errors.append(error)
                empty_cache(part)
            part.row(name, *speeds, '; '.join(filter(None, errors)))
    missing = {name: reason for name, reason in reasons.items() if reason is not None}
    if missing:
        part.table('Networks that cannot run here: nothing is decided about them', 'network', 'reason')
        for row in missing.items():
            part.row(*row)


def step_of(build, make_step, name, images, training):
    import torch

    return make_step(name, build(name, images.device.type), images, torch.bfloat16, training, 'eager')


def empty_cache(part):
    import torch

    if not part.rehearse:
        torch.cuda.empty_cache()


def tests(part):
    """The tests of what only a GPU can show, by name: no other file is collected, and no failure stops them."""
    files = gpu_tests()
    groups = {
        'kernels': (files['device'], 'not sweep and not reach and not gpu'),
        'marked gpu': (files['marked'], 'gpu'),
    }
    if part.rehearse:
        groups = {'rehearsal': (['tests/test_names.py'], 'not sweep')}
    part.table('Tests', 'group', 'passed', 'failed', 'skipped', 'exit status')
    codes, failures = [], []
    for name, (paths, marks) in groups.items():
        counts, code, failed = run_pytest(part, paths, marks, 0 if part.rehearse else min(8, os.cpu_count() or 1))
        part.row(name, counts['PASSED'], counts['FAILED'] + counts['ERROR'], counts['SKIPPED'], code)
        codes.append(code)
        failures += failed
    part.table('Tests that failed', 'test')
    for failed in failures[:40]:
        part.row(failed)
    if len(failures) > 40:
        part.row(f'and {len(failures) - 40} more: see tests.log')
    if any(codes):
        raise SystemExit(1)


def gpu_tests():
    """Return the test files that need or use a GPU, found by their text: no file is imported for it."""
    found = {'device': [], 'marked': []}
    for path in sorted((ROOT / 'tests').rglob('test_*.py')):
        text = path.read_text()
        name = path.relative_to(ROOT).as_posix()
        if 'pytest.mark.gpu' in text:
            found['marked'].append(name)
        if re.search(r"^DEVICE = 'cuda' if", text, re.MULTILINE):
            found['device'].append(name)
    return found


def run_pytest(part, paths, marks, processes):
    """Run test files; return counts by outcome, the exit status, and the names of tests that failed."""
    command = [sys.executable, '-m', 'pytest', '-v', '-ra', '--tb=short', '-m', marks, '-p', 'no:cacheprovider']
    command += ['--continue-on-collection-errors', '--color=no', *paths]
    if processes and importlib.util.find_spec('xdist'):
        command += ['-n', str(processes), '--dist', 'load']
    counts, failed = dict.fromkeys(('PASSED', 'FAILED', 'ERROR', 'SKIPPED'), 0), []
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for line in process.stdout:
            print(line, end='')
            match = re.search(r'\b(PASSED|FAILED|ERROR|SKIPPED)\b', line)
            test = re.search(r'tests/\S+', line)
            if match and test and (line.startswith(('[gw', 'tests/'))):
                counts[match[1]] += 1
            elif test and line.startswith(('FAILED ', 'ERROR ')):
                failed.append(line.strip())
    counts['ERROR'] = max(counts['ERROR'], sum(line.startswith('ERROR ') for line in failed))
    return counts, process.returncode, failed


def scan(part):
    """The multi-scan at the four stages over its open options, as CUDA graphs."""
    if not part.rehearse:
        compile_options(part)
    stages = {1: (16, 2, 1, 3)} if part.rehearse else STAGES
    options = dict(itertools.islice(OPTIONS.items(), 2)) if part.rehearse else OPTIONS
    for batch in (1,) if part.rehearse else (128, 64, 32):
        part.table(
            f'The scans of a block, batch {batch}, bfloat16: ms forward / forward for training + backward',
            *('options', *(f'stage {stage}' for stage in stages), 'all blocks of small'),
        )
        for name, chosen in options.items():
            if part.time_is_up():
                part.row(name, *(['no time left'] * len(stages)), None)
                continue
            cells, totals = [], [0, 0]
            for channels, side, blocks, _ in stages.values():
                both = []
                for training in (False, True):
                    make = functools.partial(scan_step, part.device, batch, channels, side, chosen, training)
                    ms, error = part.ms(make)
                    both.append(error or f'{ms:.3f}')
                    totals[training] = totals[training] + blocks * ms if ms and totals[training] is not None else None
                cells.append(' / '.join(both))
            part.row(name, *cells, ' / '.join('-' if total is None else f'{total:.1f}' for total in totals))


def compile_options(part):
    """Compile the kernels of all options at once, in processes: Triton keeps them on the disk."""
    command = [sys.executable, __file__, 'compile_one', '--out', os.devnull, '--seconds', '90', '--option']
    processes = [subprocess.Popen([*command, name], env={**os.environ, 'OMP_NUM_THREADS': '1'}) for name in OPTIONS]
    for process in processes:
        process.wait()


def compile_one(part, option):
    """Launch all kernels of one option once."""
    for channels, side, *_ in STAGES.values():
        for training in (False, True):
            make = functools.partial(scan_step, part.device, 32, channels, side, OPTIONS[option], training)
            try:
                make()()
            except Exception as error:  # the table of the scan shows it, too
                print(f'{option}: {type(error).__name__}: {error}'.splitlines()[0])


def scan_step(device, batch, channels, side, options, training, dtype=None):
    """Return a function that runs the scans of a block as the network calls them: on slices of the projections."""
    import torch

    from mmdefmamba.ops import TokenOrder, multi_scan
    from mmdefmamba.ops.triton_scan import use_scan_options

    torch.manual_seed(0)
    dtype = dtype or torch.bfloat16
    length, states, scans = side * side, 16, 3
    rank = -(-channels // 16)

    def random(*shape, dtype=dtype):
        return torch.randn(*shape, device=device).to(dtype)

    u, sampled = random(batch, length, channels), random(batch, length, channels)
    projected = random(scans, batch, length, rank + 2 * states)
    _, B, C = (x.transpose(0, 1) for x in projected.split([rank, states, states], -1))
    delta = (random(scans, batch, length, channels) - 4).transpose(0, 1)
    A = -torch.arange(1.0, states + 1, device=device).repeat(scans * channels, 1)
    D, bias = (torch.ones(scans * channels, device=device) for _ in range(2))
    last_first = torch.arange(length, device=device).flip(0)
    orders = [
        None,
        TokenOrder.from_order(last_first, backwards=True),
        TokenOrder.from_keys(torch.rand(batch, length, device=device)),
    ]
    leaves = [u, sampled, delta, A, B, C, D, bias]
    if training:
        leaves = [x.detach().requires_grad_() for x in leaves]
        u, sampled, delta, A, B, C, D, bias = leaves
    gradient = random(batch, 1, length, channels).expand(batch, scans, length, channels)

    def step():
        with use_scan_options(**options), torch.set_grad_enabled(training):
            y = multi_scan([u, u, sampled], delta, A, B, C, D, bias, orders, backend='triton')
            return torch.autograd.grad(y, leaves, gradient) if training else y

    return step


def operators(part):
    """Single operators at the four stages: PyTorch's own, NCHW and NHWC, against the kernels of this package."""
    from gpu_operators import FORWARD_ONLY, OPERATORS

    batch = 1 if part.rehearse else 128
    stages = {1: (4, 3, 1, 3)} if part.rehearse else STAGES
    header = ['operator', 'pass', *(f'stage {stage}' for stage in stages)]
    part.table(f'Single operators, batch {batch}, bfloat16, ms: PyTorch NCHW, PyTorch NHWC, kernels', *header)
    for name, make in OPERATORS.items():
        for training in (False, True):
            if name in FORWARD_ONLY and training:
                continue
            cells = []
            for channels, side, _, kernel in stages.values():
                if part.time_is_up():
                    cells.append('no time left')
                    continue
                measured = []
                for way in ('nchw', 'nhwc', 'triton'):
                    build = functools.partial(make, part.device, batch, channels, side, kernel, training, way)
                    ms, error = part.ms(build)
                    if error:
                        print(f'{name}, {way}: {error}')
                    measured.append('ERROR' if error else f'{ms:.3f}')
                cells.append(', '.join(measured))
            part.row(name, 'forward + backward' if training else 'forward', *cells)


def profile(part):
    """Where a step of DefMamba-S spends its time on the GPU, by kernel."""
    import torch
    from networks import build, make_step
    from torch.profiler import ProfilerActivity

    arch, batch, size = ('tiny', 1, 8) if part.rehearse else ('small', 128, 224)
    images = torch.randn(batch, 3, size, size, device=part.device)
    for training in (False, True):
        step = step_of(build, make_step, arch, images, training)
        for _ in range(1 if part.rehearse else 3):
            step()
        activity = ProfilerActivity.CPU if part.rehearse else ProfilerActivity.CUDA
        calls = 1 if part.rehearse else 3
        with torch.profiler.profile(activities=[activity]) as profiled:
            for _ in range(calls):
                step()
            if not part.rehearse:
                torch.cuda.synchronize()
        kernels = sorted(profiled.key_averages(), key=lambda k: -k.self_device_time_total)
        total = sum(k.self_device_time_total for k in kernels)
        what = 'forward + backward' if training else 'inference'
        launches = sum(k.count for k in kernels) // calls
        part.table(
            f'{arch}, {what}, batch {batch}: {total / calls / 1e3:.2f} ms in {launches} launches; per step, by kernel',
            *('ms', '%', 'launches', 'kernel'),
        )
        for k in kernels[: 3 if part.rehearse else 25]:
            time_ms = k.self_device_time_total / calls / 1e3
            share = 100 * k.self_device_time_total / total if total else 0.0
            part.row(f'{time_ms:.3f}', f'{share:.1f}', k.count // calls, k.key[:90])


def compile(part):
    """Images per second under torch.compile."""
    import torch
    from networks import build, make_step, unavailable

    batch, size = (1, 8) if part.rehearse else (128, 224)
    images = torch.randn(batch, 3, size, size, device=part.device)
    part.table(f'Images/s under torch.compile, batch {batch}, bfloat16', 'network', 'pass', 'images/s', 'error')
    mode = 'eager' if part.rehearse else 'compile'  # a rehearsal does not wait for a compiler
    for training in (False, True):
        for name in NETWORKS[:1] if part.rehearse else NETWORKS:
            if reason := unavailable(name, part.device, torch.bfloat16):
                part.row(name, None, None, reason)
                continue
            if part.time_is_up(20):
                part.row(name, None, None, 'no time left')
                continue

            def make(name=name, training=training):
                return make_step(name, build(name, part.device), images, torch.bfloat16, training, mode)

            ms, error = part.ms(make, graph=False, calls=5)
            part.row(name, 'forward + backward' if training else 'inference', ms and round(batch / ms * 1e3), error)
            empty_cache(part)
            torch.compiler.reset()


def tasks(part):
    """Training steps of Mask R-CNN and UperNet, with Swin-T and DefMamba-S."""
    missing = [name for name in ('mmdet', 'mmseg', 'mmcv') if importlib.util.find_spec(name) is None]
    part.table('Training steps without the optimizer', 'detector', 'backbone', 'ms', 'peak GiB', 'error')
    if missing:
        part.row(f'not measured: {", ".join(missing)} cannot be imported here', None, None, None, None)
        return
    import detectors

    for name in detectors.DETECTORS:
        for backbone in ('small', 'swin_t'):
            if part.time_is_up(20):
                part.row(name, backbone, None, None, 'no time left')
                continue
            ms, memory, error = detector_step(part, detectors, name, backbone)
            part.row(name, backbone, ms, memory, error)


def detector_step(part, detectors, name, backbone):
    import torch

    if part.rehearse:
        return next(part.invented), None, 'not built in a rehearsal'
    size = (512, 512) if name == 'upernet' else (800, 1333)
    torch.cuda.reset_peak_memory_stats()

    def make():
        model = detectors.build(name, backbone, 'auto')
        data = detectors.make_batch(name, 2, *size)
        return detectors.make_step(model, data, 'cuda', torch.bfloat16)

    ms, error = part.ms(make, graph=False, calls=3)
    memory = torch.cuda.max_memory_allocated() / 2**30
    empty_cache(part)
    return ms, memory, error


def memory(part):
    """Peak memory of a training step."""
    import torch
    from networks import build, make_step, unavailable

    part.table('Peak memory of forward + backward, bfloat16', 'network', 'batch', 'size', 'GiB', 'error')
    for name, (batch, size) in itertools.product(('small', 'swin_t'), ((128, 224), (2, 1280))):
        if reason := unavailable(name, part.device, torch.bfloat16):
            part.row(name, batch, size, None, reason)
            continue
        batch, size = (1, 8) if part.rehearse else (batch, size)
        images = torch.randn(batch, 3, size, size, device=part.device)
        try:
            step = make_step(name, build(name, part.device), images, torch.bfloat16, True, 'eager')
            if part.rehearse:
                part.row(name, batch, size, None, 'a rehearsal has no GPU memory')
                continue
            torch.cuda.reset_peak_memory_stats()
            step()
            torch.cuda.synchronize()
            part.row(name, batch, size, torch.cuda.max_memory_allocated() / 2**30, '')
            del step
        except Exception as error:
            part.row(name, batch, size, None, f'{type(error).__name__}: {error}'.splitlines()[0])
        empty_cache(part)


def mamba(part):
    """The network on mamba-ssm's kernel, if a built one is at hand."""
    import torch
    from networks import build, make_step, unavailable

    part.table('Images/s by the kernel of the scan, batch 128, bfloat16', 'network', 'pass', 'images/s', 'error')
    # Triton's interpreter takes minutes for a training step
    names = ('tiny:mamba_ssm', 'tiny:blockwise') if part.rehearse else ('small:mamba_ssm', 'small:triton')
    for name, training in itertools.product(names, (False, True)):
        if reason := unavailable(name, part.device, torch.bfloat16):
            part.row(name, None, None, reason)
            continue
        batch, size = (1, 8) if part.rehearse else (128, 224)
        images = torch.randn(batch, 3, size, size, device=part.device)

        def make(name=name, images=images, training=training):
            return make_step(name, build(name, part.device), images, torch.bfloat16, training, 'eager')

        ms, error = part.ms(make, graph=False, calls=5)
        part.row(name, 'forward + backward' if training else 'inference', ms and round(batch / ms * 1e3), error)
        empty_cache(part)


def fails(part):
    """A part of the rehearsal that fails after its first row."""
    part.table('A part that fails', 'what')
    part.row('a row that is kept')
    raise RuntimeError('this part fails on purpose')


def hangs(part):
    """A part of the rehearsal that never ends, and leaves a process behind."""
    part.table('A part that hangs', 'what')
    part.row('a row that is kept, too')
    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
    time.sleep(600)


PARTS = (device, networks, tests, scan, operators, profile, compile, tasks, memory, mamba, fails, hangs, compile_one)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('part', choices=[part.__name__ for part in PARTS])
    parser.add_argument('--out', required=True)
    parser.add_argument('--seconds', type=float, required=True)
    parser.add_argument('--rehearse', action='store_true')
    parser.add_argument('--option', choices=OPTIONS)
    args = parser.parse_args()
    function = next(part for part in PARTS if part.__name__ == args.part)
    without_gpu = (tests, fails, hangs)  # they import no PyTorch here: the tests find the GPU themselves
    if not args.rehearse and function not in without_gpu:
        import torch

        if not torch.cuda.is_available():
            raise SystemExit('PyTorch finds no CUDA device. Without one: bash benchmarks/gpu.sh --rehearse')
    function(Part(args.out, args.seconds, args.rehearse), *([args.option] if args.option else []))


if __name__ == '__main__':
    main()
