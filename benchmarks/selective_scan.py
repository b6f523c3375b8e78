"""Time the selective scan alone, in turns in one run: all backends that can run here, and loops over tokens."""

import argparse
import functools

import torch
from loops import materialising_loop
from timing import add_arguments, attempt, describe, peak_memory, report

from mmdefmamba.analysis.timing import alternate
from mmdefmamba.ops import BACKENDS, TokenOrder, multi_scan, selective_scan, unavailable_reason, use_backend

FUNCTIONS = {'materialising loop': materialising_loop}


def make_inputs(batch, groups, channels, states, length, device, dtype, requires_grad):
    """Return inputs as the backbone makes them: stored channel-last, small time steps, decay rates of -1..-N."""
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


def run(name, inputs, backward):
    with use_backend(FUNCTIONS.get(name, name)):
        y = selective_scan(*inputs)
    if backward:
        torch.autograd.grad(y.sum(), inputs)


def run_multi(name, maps, inputs, orders, backward):
    with use_backend(name):
        y = multi_scan(maps, *inputs, orders)
    if backward:
        torch.autograd.grad(y.sum(), [*maps[-2:], *inputs])


def multi_scan_steps(names, batch, groups, channels, states, length, device, dtype, backward):
    """Return a step per backend: the scans of a DefMamba block, forward and backward on one map, learned on another."""
    u, delta, A, B, C, D, bias = make_inputs(batch, groups, channels, states, length, device, dtype, False)
    orders = torch.rand(batch, length, device=device).argsort(-1)
    last_first = torch.arange(length, device=device).flip(0)
    orders = [None, TokenOrder.from_order(last_first, backwards=True), TokenOrder.from_order(orders)][:groups]
    shared, sampled = (x.transpose(1, 2).contiguous() for x in u.unflatten(1, (groups, -1))[:, [0, -1]].unbind(1))
    maps = [shared, shared, sampled][:groups]
    delta = delta.unflatten(1, (groups, -1)).transpose(2, 3)
    inputs = [delta, A, B.transpose(2, 3), C.transpose(2, 3), D, bias]
    for x in [*maps, *inputs]:
        x.requires_grad_(backward)
    return {name: functools.partial(run_multi, name, maps, inputs, orders, backward) for name in names}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument('--shape', type=int, nargs=5, default=[4, 1, 96, 16, 3136], metavar=tuple('BKDNL'))
    parser.add_argument('--lengths', type=int, nargs='*', default=[4096, 16384, 65536], help='for the growth with L')
    parser.add_argument('--no-loops', dest='loops', action='store_false', help='time backends only; for long sequences')
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    title = f'{describe(args.device, dtype)}; B, K, D, N, L = {args.shape}'
    print(title)

    probe = torch.empty(1, device=args.device, dtype=dtype)
    backends = [name for name in BACKENDS if name != 'reference']
    for name in backends:
        if reason := unavailable_reason(name, probe):
            print(f'{name}: cannot run here: {reason}')
    backends = [name for name in backends if unavailable_reason(name, probe) is None]

    rows, header = [], ['op', 'pass', 'method', 'ms', 'times faster than the first', 'peak GiB', 'error']
    tag = f'{args.dtype}_{"x".join(map(str, args.shape))}'
    for backward, loop in ((False, 'materialising loop'), (True, 'reference')):
        what = 'forward + backward' if backward else 'forward'
        inputs = make_inputs(*args.shape, args.device, dtype, requires_grad=backward)
        names = [loop, *backends] if args.loops else backends
        candidates = {name: functools.partial(run, name, inputs, backward) for name in names}
        rows += measure('selective_scan', what, candidates, args)
        if args.shape[1] in (1, 2, 3):
            candidates = multi_scan_steps(backends, *args.shape, args.device, dtype, backward)
            rows += measure('multi_scan', what, candidates, args)
    report(f'selective_scan_{tag}', header, rows, args.out, value='ms', label=header[:3], title=title)

    if args.lengths:
        print('Growth with the length, forward + backward, B 1, K 1, D 96, N 16')
        functions = {}
        for length in args.lengths:
            inputs = make_inputs(1, 1, 96, 16, length, args.device, dtype, requires_grad=True)
            for name in backends:
                functions[name, length] = functools.partial(run, name, inputs, True)
                functions[name, length]()
        seconds = alternate(functions, args.rounds, args.device)
        base = args.lengths[0]
        rows = [[*key, value * 1e3, value / seconds[key[0], base]] for key, value in seconds.items()]
        header = ['method', 'L', 'ms', f'against L = {base}']
        report(f'length_{args.dtype}', header, rows, args.out, value='ms', label=['method'], x='L', title=title)


def measure(op, what, candidates, args):
    """Return rows of the table: time, speed relative to the first candidate, memory."""
    functions, rows = {}, []
    for name, function in candidates.items():
        step, error = attempt(lambda function=function: function, args.device)
        if step:
            functions[name] = step
        else:
            rows.append([op, what, name, None, None, None, error])
    seconds = alternate(functions, args.rounds, args.device)
    first = next(iter(seconds.values()), None)
    return rows + [
        [op, what, name, value * 1e3, first / value, peak_memory(functions[name], args.device), '']
        for name, value in seconds.items()
    ]


if __name__ == '__main__':
    main()
