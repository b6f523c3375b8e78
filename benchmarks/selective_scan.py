"""The selective scan alone: every backend that can run here, against per-token loops, by turns in one run."""

import argparse

import torch
from loops import materialising_loop
from timing import describe, print_table

from mmdefmamba.analysis.timing import alternate
from mmdefmamba.ops import selective_scan
from mmdefmamba.ops.selective_scan import BACKENDS, unavailable_reason, use_backend


def make_inputs(batch, groups, channels, states, length, device, dtype, requires_grad):
    """Inputs as the backbone makes them: stored channel-last, small time steps, decays of -1..-N."""
    torch.manual_seed(0)
    dims = groups * channels

    def channel_last(*shape):
        return torch.randn(*shape, device=device, dtype=dtype).movedim(1, -1)

    inputs = [
        channel_last(batch, length, dims),
        channel_last(batch, length, dims) - 4,
        -torch.arange(1.0, states + 1, device=device).repeat(dims, 1),
        channel_last(batch, length, groups, states),
        channel_last(batch, length, groups, states),
        torch.ones(dims, device=device),
        torch.zeros(dims, device=device),
    ]
    return [x.requires_grad_(requires_grad) for x in inputs]


def calls(names, inputs, backward):
    """name -> a function that runs it once."""

    def call(name):
        context = use_backend(materialising_loop if name == 'materialising loop' else name)
        with context:
            y = selective_scan(*inputs)
            if backward:
                torch.autograd.grad(y.sum(), inputs)

    return {name: lambda name=name: call(name) for name in names}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16', 'float16'])
    parser.add_argument('--shape', type=int, nargs=5, default=[4, 1, 96, 16, 3136], metavar=tuple('BKDNL'))
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--lengths', type=int, nargs='+', default=[4096, 16384, 65536], help='for the growth with L')
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    print(f'{describe(args.device, dtype)}\nB, K, D, N, L = {args.shape}')

    probe = torch.empty(1, device=args.device, dtype=dtype)
    backends = [name for name in BACKENDS if name != 'reference']
    for name in backends:
        if reason := unavailable_reason(name, probe):
            print(f'{name}: not here, {reason}')
    backends = [name for name in backends if unavailable_reason(name, probe) is None]

    rows = []
    for backward, loop in ((False, 'materialising loop'), (True, 'reference')):
        inputs = make_inputs(*args.shape, args.device, dtype, requires_grad=backward)
        seconds = alternate(calls([loop, *backends], inputs, backward), args.rounds, args.device)
        for name, value in seconds.items():
            what = 'forward + backward' if backward else 'forward'
            rows.append([what, name, f'{value * 1e3:.1f}', f'{seconds[loop] / value:.1f}x'])
    print_table(['', 'method', 'ms', 'against the loop'], rows)

    print('\nGrowth with the length, forward + backward, B 1, K 1, D 96, N 16')
    functions = {}
    for length in args.lengths:
        inputs = make_inputs(1, 1, 96, 16, length, args.device, dtype, requires_grad=True)
        for name, function in calls(backends, inputs, backward=True).items():
            functions[name, length] = function
    seconds = alternate(functions, args.rounds, args.device)
    base = args.lengths[0]
    print_table(
        ['method', 'L', 'ms', f'against L = {base}'],
        [
            [name, length, f'{value * 1e3:.1f}', f'{value / seconds[name, base]:.1f}x']
            for (name, length), value in seconds.items()
        ],
    )


if __name__ == '__main__':
    main()
