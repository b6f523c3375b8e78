"""Measure time and memory of backbones at several image sizes. Each batch has about the same number of pixels."""

import argparse
import functools

import torch
from networks import NAMES, build, make_step
from timing import add_arguments, attempt, describe, peak_memory, report

from mmdefmamba.analysis.timing import alternate


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, rounds=3)
    parser.add_argument('--networks', nargs='+', default=['small', 'swin_t'], choices=NAMES)
    parser.add_argument('--sizes', type=int, nargs='+', default=[224, 320, 448, 640, 896, 1280, 1536])
    parser.add_argument('--pixels', type=int, help='pixels per batch; by default the pixels of the largest image')
    parser.add_argument('--training', action='store_true', help='time forward + backward instead of inference')
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    what = 'forward + backward' if args.training else 'inference'
    title = f'{describe(args.device, dtype)}, {what}'
    print(title)

    models = {name: build(name, args.device) for name in args.networks}
    pixels = args.pixels or max(args.sizes) ** 2
    rows, base = [], {}
    for size in args.sizes:
        batch = max(1, pixels // size**2)
        images = torch.randn(batch, 3, size, size, device=args.device)
        steps = {}
        for name in args.networks:
            make = functools.partial(make_step, name, models[name], images, dtype, args.training, 'eager')
            step, error = attempt(make, args.device)
            if step:
                steps[name] = step
            else:
                rows.append([name, size, batch, None, None, None, None, error])
        for name, value in alternate(steps, args.rounds, args.device).items():
            each = value / (batch * size**2)
            base.setdefault(name, each)
            memory = peak_memory(steps[name], args.device)
            rows.append([name, size, batch, value * 1e3, each * 1e9, each / base[name], memory, ''])
    header = ['network', 'size', 'batch', 'ms', 'ns per pixel', 'against the first size', 'peak GiB', 'error']
    name = f'resolution_{"training" if args.training else "inference"}_{args.dtype}'
    report(name, header, rows, args.out, value='ns per pixel', label=('network',), x='size', title=title)


if __name__ == '__main__':
    main()
