"""Time networks alone, and beside one busy process per core, as on a machine that is shared.

Two threads of one step wait for each other. On a busy core a thread gets every second time slice, so twice the time
alone is the best that can be expected, and a network that lets its threads wait often is many times slower.
"""

import argparse
import functools
import os
import statistics
import subprocess
import sys
import time

import torch
from networks import NAMES, build, make_step
from timing import add_arguments, describe, report, threads_and_load

from mmdefmamba.analysis.timing import all_times

# it ends by itself, should this script be killed
BUSY = 'import time\nend = time.monotonic() + {limit}\nwhile time.monotonic() < end: pass'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, rounds=9)
    parser.add_argument('--networks', nargs='+', default=['small', 'swin_t'], choices=NAMES, metavar='NAME')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--busy', type=int, default=len(os.sched_getaffinity(0)), help='busy processes; one per core')
    parser.add_argument('--limit', type=int, default=300, help='seconds after which the busy processes end')
    args = parser.parse_args()
    if args.device != 'cpu':
        parser.error('this benchmark is about the cores of a CPU: leave out --device')
    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    title = f'{describe("cpu", dtype)}, batch {args.batch}, {args.size} x {args.size}, {args.busy} busy processes'
    print(f'{title}; {threads_and_load()}')

    images = torch.randn(args.batch, 3, args.size, args.size)
    steps = {}
    for training in (False, True):
        for name in args.networks:
            if not (training and name.endswith(':loop')):
                make = functools.partial(make_step, name, build(name, 'cpu'), images, dtype, training, 'eager')
                steps[name, 'training' if training else 'inference'] = make()
    alone = all_times(steps, args.rounds)
    busy = time_beside_busy_processes(steps, args)
    rows = []
    for (name, what), times in alone.items():
        before, after = statistics.median(times), statistics.median(busy[name, what])
        rows.append([name, what, before * 1e3, after * 1e3, after / before, max(busy[name, what]) / before])
    header = ['network', 'what', 'alone ms', 'ms', 'times slower', 'times slower, slowest call']
    report(f'busy_{args.dtype}', header, rows, args.out, value='times slower', label=header[:2], title=title)


def time_beside_busy_processes(steps, args):
    """Return the times of the steps while other processes keep each core busy."""
    command = [sys.executable, '-c', BUSY.format(limit=args.limit)]
    processes = [subprocess.Popen(command) for _ in range(args.busy)]
    try:
        time.sleep(0.5)  # until they run
        times = all_times(steps, args.rounds)
        if any(process.poll() is not None for process in processes):
            raise SystemExit(f'the busy processes ended after {args.limit} s, before the end: raise --limit')
        return times
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == '__main__':
    main()
