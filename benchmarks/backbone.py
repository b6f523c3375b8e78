"""Time whole networks, in turns in one run: DefMamba on any backend, and torchvision's Swin-T and ConvNeXt-T."""

import argparse
import functools
import statistics

import torch
from networks import MODEL, NAMES, build, limit_of, make_step, unavailable
from timing import MODES, add_arguments, attempt, copy_bandwidth, describe, peak_memory, report, threads_and_load

from mmdefmamba.analysis.timing import all_times

HEADER = ['network', 'mode', 'threads', 'batch', 'size', 'images/s', 'ms', 'fastest ms', 'speed', 'fastest speed']
HEADER += ['peak GiB', "of the device's limit by a model", 'error']


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    networks = ['swin_t', 'convnext_t', 'small', 'tiny', 'small:blockwise']
    parser.add_argument('--networks', nargs='+', default=networks, choices=NAMES, metavar='NAME', help=', '.join(NAMES))
    parser.add_argument('--modes', nargs='+', default=['eager'], choices=MODES)
    parser.add_argument('--training', action='store_true', help='time forward + backward instead of inference')
    parser.add_argument('--channels-last', action='store_true', help='store weights and images in channels_last')
    parser.add_argument('--batch', type=int, nargs='+', default=[4])
    parser.add_argument('--size', type=int, nargs='+', default=[224])
    parser.add_argument('--threads', type=int, nargs='+', default=[torch.get_num_threads()], help='threads on a CPU')
    args = parser.parse_args()
    if 'graph' in args.modes and args.device == 'cpu':
        parser.error('--modes graph needs --device cuda')
    if args.training and any(name.endswith(':loop') for name in args.networks):
        parser.error('the backward of the loop is too slow to be timed: leave out --training or the loop')
    dtype = getattr(torch, args.dtype)
    what = 'forward + backward' if args.training else 'inference'
    title = f'{describe(args.device, dtype)}, {what}' + (', channels_last' if args.channels_last else '')
    print(title)
    for name in args.networks:
        if reason := unavailable(name, args.device, dtype):
            print(f'{name}: cannot run here: {reason}')
    networks = [name for name in args.networks if unavailable(name, args.device, dtype) is None]
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    models = {name: build(name, args.device).to(memory_format=layout) for name in networks}
    rows = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for batch in args.batch:
            for size in args.size:
                images = torch.randn(batch, 3, size, size, device=args.device).to(memory_format=layout)
                rows += time_networks(models, images, dtype, args)
                print(f'{threads} threads, batch {batch}, {size} x {size}: done; {threads_and_load()}', flush=True)
    against = 'swin_t' if 'swin_t' in networks else networks[0]
    print(f'speed: images/s relative to {against} in the same turns, from medians and from the fastest calls')
    report(
        f'backbone_{"training" if args.training else "inference"}_{args.dtype}',
        HEADER,
        rows,
        args.out,
        value='images/s',
        label=HEADER[:5],
        title=title,
    )


def time_networks(models, images, dtype, args):
    """Return the rows of the table for one batch of images."""
    place = [torch.get_num_threads(), len(images), images.shape[-1]]
    steps, rows = {}, []
    for name, model in models.items():
        for mode in args.modes:
            make = functools.partial(make_step, name, model, images, dtype, args.training, mode)
            step, error = attempt(make, args.device)
            if step:
                steps[name, mode] = step
            else:
                rows.append([name, mode, *place, *[None] * 7, error])
    seconds = all_times(steps, args.rounds, args.device)
    against = next((seconds[key] for key in seconds if key[0] == 'swin_t'), next(iter(seconds.values()), None))
    done = []
    for (name, mode), values in seconds.items():
        median, fastest = statistics.median(values), min(values)
        speeds = [statistics.median(against) / median, min(against) / fastest]
        arch, share = name.partition(':')[0], None
        if args.device == 'cuda' and arch in MODEL:
            multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
            share = len(images) / median / limit_of(arch, args.training, multiprocessors, copy_bandwidth())
        memory = peak_memory(steps[name, mode], args.device)
        done.append([name, mode, *place, len(images) / median, median * 1e3, fastest * 1e3, *speeds, memory, share, ''])
    return done + rows


if __name__ == '__main__':
    main()
