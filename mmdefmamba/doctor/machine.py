"""The machine: its cores, memory, limits and environment variables; the devices of PyTorch."""

import contextlib
import multiprocessing
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from ..files import shown

VARIABLES = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'CUDA_VISIBLE_DEVICES', 'ATEN_CPU_CAPABILITY', 'TRITON_INTERPRET',
             'LD_PRELOAD', 'PYTHONPATH')  # fmt: skip
GIB = 2**30
#: Below these, workers of a DataLoader fail. Docker gives 64 MiB of shared memory.
MIN_SHARED, MIN_FILES, MIN_DISK = GIB // 4, 1024, GIB


def machine(report):
    """Cores, memory and limits, from the operating system."""
    report.fact('system', platform.platform())
    report.fact('CPU', cpu_name())
    cores = usable_cores()
    report.fact('cores', f'{cores:g} of {os.cpu_count()} usable')
    if hasattr(os, 'getloadavg'):
        load = os.getloadavg()[0]
        report.fact('load', f'{load:.1f} processes in the last minute')
        if load > 0.75 * cores:
            report.note(f'other processes use the cores (load {load:.1f}): times below are those of a busy machine')
    _memory(report)
    for name in [*VARIABLES, *sorted(name for name in os.environ if name.startswith('MMDEFMAMBA_'))]:
        if name in os.environ:
            report.fact(name, os.environ[name])
    threads = os.environ.get('OMP_NUM_THREADS', '')
    if threads and not threads.isdigit():
        report.note(f'OMP_NUM_THREADS={threads!r} is not a number: OpenMP may ignore it')
    elif threads and int(threads) > cores:
        report.note(
            f'OMP_NUM_THREADS={threads}, but {cores:g} cores are usable: threads wait for each other. Set {cores:.0f}'
        )
    report.fact('start of data workers', multiprocessing.get_start_method(allow_none=True) or
                multiprocessing.get_all_start_methods()[0])  # fmt: skip
    _limits(report)


def cpu_name():
    """Return the name of the CPU, such as 'Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz'."""
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def usable_cores():
    """Return how many cores this process may use: those it is bound to, or the share that its container gets."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path('/sys/fs/cgroup/cpu.max').read_text().split()
        cores = min(cores, int(quota) / int(period))
    return cores


def _memory(report):
    with contextlib.suppress(OSError, KeyError, ValueError):
        fields = dict(line.split(':') for line in Path('/proc/meminfo').read_text().splitlines())
        total, free = (int(fields[name].split()[0]) / 2**20 for name in ('MemTotal', 'MemAvailable'))
        report.fact('memory', f'{free:.1f} of {total:.1f} GiB available')
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path('/sys/fs/cgroup/memory.max').read_text()) / GIB
        report.fact('memory of this container', f'{limit:.1f} GiB')


def _limits(report):
    if os.path.isdir('/dev/shm'):
        free = shutil.disk_usage('/dev/shm').free
        report.fact('shared memory', f'{free / GIB:.2f} GiB free in /dev/shm')
        if free < MIN_SHARED:
            report.problem(
                f'/dev/shm has {free / 2**20:.0f} MiB free, and workers of a DataLoader end with "Bus error" when '
                'it is full. Docker: --shm-size=8g; otherwise num_workers=0 in the data loaders'
            )
    with contextlib.suppress(ImportError):  # no such module on Windows
        import resource

        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        report.fact('open files', f'at most {files}')
        if 0 < files < MIN_FILES:
            report.note(f'a process may open {files} files, and data workers need more. Run: ulimit -n 4096')
    for name, folder in (('this folder', os.getcwd()), ('temporary files', tempfile.gettempdir())):
        free = shutil.disk_usage(folder).free
        report.fact(f'disk for {name}', f'{free / GIB:.1f} GiB free in {shown(folder)}')
        if free < MIN_DISK:
            report.note(f'{shown(folder)} has {free / 2**20:.0f} MiB free: checkpoints need more')


def devices(report):
    """What PyTorch says about the CPU and the GPUs, and the driver."""
    driver = _driver(report)
    if not report.step('import torch'):
        return
    import torch

    threads, cores = torch.get_num_threads(), usable_cores()
    report.fact('CPU capability', torch.backends.cpu.get_cpu_capability())
    report.fact('threads of PyTorch', threads)
    if threads > cores + 0.5:
        report.note(
            f'PyTorch takes {threads} threads, but {cores:g} cores are usable. Set OMP_NUM_THREADS={max(1, int(cores))}'
        )
    report.fact('CUDA of PyTorch', torch.version.cuda or torch.version.hip or 'none, a build for CPUs')
    if not report.step('look for GPUs'):
        return
    if not torch.cuda.is_available():
        report.fact('GPU', 'none that PyTorch can use')
        if driver and os.environ.get('CUDA_VISIBLE_DEVICES', '0') not in ('', '-1'):
            why = 'this PyTorch is a build for CPUs' if torch.version.cuda is None else _cuda_error(torch)
            report.problem(f'there is a GPU with driver {driver}, which PyTorch cannot use: {why}')
        return
    known = [arch.removeprefix('sm_') for arch in torch.cuda.get_arch_list() if arch.startswith('sm_')]
    for index in range(torch.cuda.device_count()):
        if not report.step(f'ask GPU {index}'):
            continue
        properties = torch.cuda.get_device_properties(index)
        report.fact(
            f'GPU {index}',
            f'{properties.name}, {properties.total_memory / GIB:.0f} GiB, sm_{properties.major}{properties.minor}',
        )
        if known and not any(name.rstrip('af')[:-1] == str(properties.major) for name in known):
            report.problem(
                f'this PyTorch has no kernels for GPU {index} (sm_{properties.major}{properties.minor}, it has '
                f'{", ".join(known)}). Install a PyTorch that was built for this GPU'
            )
        try:
            torch.ones(2, device=f'cuda:{index}').sum().item()
        except RuntimeError as error:
            report.problem(f'GPU {index} cannot add two numbers: {str(error).splitlines()[0]}')


def _driver(report):
    """Return the version of NVIDIA's driver, or None."""
    if not report.step('nvidia-smi') or shutil.which('nvidia-smi') is None:
        return None
    command = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        report.note(f'nvidia-smi does not answer: {error}')
        return None
    version = done.stdout.strip().splitlines()[:1]
    if done.returncode or not version:
        report.note(f'nvidia-smi fails: {(done.stdout + done.stderr).strip()[:200]}')
        return None
    report.fact('NVIDIA driver', version[0])
    return version[0]


def _cuda_error(torch):
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return 'torch.cuda.is_available() is False'
