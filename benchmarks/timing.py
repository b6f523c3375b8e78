"""Timing that compares: all candidates in one run, by turns."""

import platform
import statistics
import time

import torch


def alternate(functions, rounds=5, device='cpu'):
    """Call each function by turns and time every call.

    Args:
        functions: dict of name to a function without arguments.
        rounds: calls of each that are timed, after one that is not.
        device: what to synchronise with, 'cpu' or 'cuda'.

    Returns:
        dict of name to the median of its times, in seconds.
    """

    def timed(function):
        start = time.perf_counter()
        function()
        if device == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for function in functions.values():
        timed(function)
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(timed(function))
    return {name: statistics.median(values) for name, values in times.items()}


def describe(device, dtype=torch.float32):
    """One line on where and how: device, threads, dtype, TF32, versions."""
    name = torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    tf32 = f', TF32 {"on" if torch.backends.cuda.matmul.allow_tf32 else "off"}' if device == 'cuda' else ''
    return f'{name}, {dtype}{tf32}, eager, torch {torch.__version__}, Python {platform.python_version()}'


def print_table(header, rows):
    """Print rows as a Markdown table."""
    for row in (header, ['---'] * len(header), *rows):
        print('| ' + ' | '.join(str(cell) for cell in row) + ' |', flush=True)
