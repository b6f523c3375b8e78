"""Timing for comparisons: all candidates in turns, within one run."""

import statistics
import time

import torch


def alternate(functions, rounds=5, device='cpu'):
    """Call functions in turns and time each call.

    Args:
        functions: dict of name to a function without arguments.
        rounds: number of timed calls of each function, after one call that is not timed.
        device: device to synchronise with, 'cpu' or 'cuda'.

    Returns:
        dict of name to the median time, in seconds.
    """
    return {name: statistics.median(times) for name, times in all_times(functions, rounds, device).items()}


def all_times(functions, rounds=5, device='cpu'):
    """Call functions in turns as :func:`alternate` does; return name -> the time of each call, in seconds."""

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
    return times
