"""Timing that compares: all candidates in one run, by turns."""

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
