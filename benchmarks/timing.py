"""Functions that the benchmarks share: trial runs, peak memory, and results as table, CSV file and plot."""

import contextlib
import csv
import functools
import os
import platform
from pathlib import Path

import torch

from mmdefmamba.analysis.markdown import markdown_table

MODES = ('eager', 'compile', 'graph')


def add_arguments(parser, rounds=5):
    """Add the arguments that all benchmarks take."""
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16', 'float16'])
    parser.add_argument('--rounds', type=int, default=rounds, help='number of timed calls per candidate')
    parser.add_argument('--out', default='work_dirs/benchmarks', help='folder for CSV files and plots')


def synchronize(device):
    if device == 'cuda':
        torch.cuda.synchronize()


def attempt(make, device):
    """Make a function and call it once.

    Returns:
        (function, ''), or (None, the first line of the error). So if one candidate cannot be compiled or runs out of
        memory, the table shows its error and the others still run.
    """
    try:
        function = make()
        function()
        synchronize(device)
    except Exception as error:  # the table shows any error
        return None, f'{type(error).__name__}: {error}'.splitlines()[0]
    return function, ''


def peak_memory(function, device):
    """Return the peak of all GPU memory in use while ``function`` runs, in GiB; None on a CPU."""
    if device != 'cuda':
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**30


def autocast(device, dtype):
    """Return the context of mixed precision training; for float32 it changes nothing."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=dtype)


def recorded(function):
    """Return ``function`` as a CUDA graph: its launches are recorded once and replayed without Python."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


@functools.cache
def copy_bandwidth():
    """Measure the bandwidth of the GPU for copies of 1 GiB, in TB/s: bytes read plus bytes written."""
    source, target = (torch.empty(2**30, dtype=torch.uint8, device='cuda') for _ in range(2))
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    target.copy_(source)
    begin.record()
    for _ in range(10):
        target.copy_(source)
    end.record()
    end.synchronize()
    return 2 * source.numel() * 10 / begin.elapsed_time(end) / 1e9


def describe(device, dtype=torch.float32):
    """Return one line about the setup: device, threads, dtype, TF32, versions."""
    name = torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    tf32 = f', TF32 {"on" if torch.backends.cuda.matmul.allow_tf32 else "off"}' if device == 'cuda' else ''
    return f'{name}, {dtype}{tf32}, torch {torch.__version__}, Python {platform.python_version()}'


def threads_and_load():
    """Return the threads of PyTorch, and how many processes wanted a core in the last minute: a busy machine misleads.

    Windows does not tell its load.
    """
    load = f'{os.getloadavg()[0]:.1f}' if hasattr(os, 'getloadavg') else 'unknown'
    return f'{torch.get_num_threads()} threads, load of the last minute {load}'


def _text(value):
    if value is None:
        return '-'
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def print_table(header, rows):
    """Print rows as a Markdown table."""
    print(markdown_table([header, *([_text(cell) for cell in row] for row in rows)]), flush=True)


def report(name, header, rows, out, value, label=None, x=None, title=''):
    """Print a table, and write it as ``out/name.csv`` and ``out/name.png``.

    Args:
        value: the column to plot.
        label: the columns that name a bar or, with ``x``, a line.
        x: the column of the horizontal axis of a line plot. Without it the plot has bars.
    """
    print_table(header, rows)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / f'{name}.csv', 'w', newline='') as file:
        csv.writer(file).writerows([header, *rows])

    import matplotlib  # here: most benchmarks on a bare machine draw nothing

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    rows = [dict(zip(header, row, strict=True)) for row in rows]
    rows = [row for row in rows if isinstance(row[value], (int, float))]
    names = [', '.join(str(row[column]) for column in label or ()) for row in rows]
    figure, axes = plt.subplots(figsize=(8, max(3, 0.3 * len(rows))) if x is None else (8, 5), layout='constrained')
    if x is None:
        axes.barh(range(len(rows)), [row[value] for row in rows])
        axes.set_yticks(range(len(rows)), names)
        axes.invert_yaxis()
        axes.set_xlabel(value)
    else:
        for line in dict.fromkeys(names):
            points = [(row[x], row[value]) for row, of in zip(rows, names, strict=True) if of == line]
            axes.plot(*zip(*points, strict=True), marker='o', label=line)
        axes.set(xlabel=x, ylabel=value, ylim=(0, None))
        axes.legend()
    axes.set_title(title, fontsize='small')
    figure.savefig(out / f'{name}.png', dpi=120)
    plt.close(figure)
    print(f'-> {out / name}.csv, .png\n', flush=True)
