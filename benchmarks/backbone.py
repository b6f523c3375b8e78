"""Time whole networks, in turns in one run: DefMamba on any backend, and torchvision's Swin-T and ConvNeXt-T."""

import argparse
import functools

import torch
from networks import H200_LIMITS, NAMES, build, make_step, unavailable
from timing import MODES, add_arguments, attempt, describe, peak_memory, report

from mmdefmamba.analysis.timing import alternate


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument('--networks', nargs='+', default=['small', 'small:loop', 'swin_t'], choices=NAMES)
    parser.add_argument('--modes', nargs='+', default=['eager'], choices=MODES)
    parser.add_argument('--training', action='store_true', help='time forward + backward instead of inference')
    parser.add_argument('--channels-last', action='store_true', help='store weights and images in channels_last')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--size', type=int, default=224)
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    what = 'forward + backward' if args.training else 'inference'
    title = f'{describe(args.device, dtype)}, batch {args.batch}, {args.size} x {args.size}, {what}'
    print(title + (', channels_last' if args.channels_last else ''))
    if 'graph' in args.modes and args.device == 'cpu':
        parser.error('--modes graph needs --device cuda')
    if args.training and any(name.endswith(':loop') for name in args.networks):
        parser.error('the backward of the loop is too slow to be timed: leave out --training or the loop')

    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device).to(memory_format=layout)
    steps, rows = {}, []
    for name in args.networks:
        if reason := unavailable(name, args.device, dtype):
            print(f'{name}: cannot run here: {reason}')
            continue
        model = build(name, args.device).to(memory_format=layout)
        for mode in args.modes:
            make = functools.partial(make_step, name, model, images, dtype, args.training, mode)
            step, error = attempt(make, args.device)
            if step:
                steps[name, mode] = step
            else:
                rows.append([name, mode, None, None, None, None, None, error])

    seconds = alternate(steps, args.rounds, args.device)
    first = next(iter(seconds.values()), None)
    done = []
    for (name, mode), value in seconds.items():
        limit = H200_LIMITS.get(name.partition(':')[0], (None, None))[args.training]
        share = args.batch / value / limit if limit and args.device == 'cuda' else None
        memory = peak_memory(steps[name, mode], args.device)
        done.append([name, mode, args.batch / value, value * 1e3, value / first, memory, share, ''])
    header = ['network', 'mode', 'images/s', 'ms', 'time against the first', 'peak GiB', 'of the H200 limit', 'error']
    report(
        f'backbone_{"training" if args.training else "inference"}_{args.dtype}',
        header,
        done + rows,
        args.out,
        value='images/s',
        label=('network', 'mode'),
        title=title,
    )


if __name__ == '__main__':
    main()
