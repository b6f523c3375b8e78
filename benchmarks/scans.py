"""Time each scan by itself, in turns in one run: its order and its map for the input of one block."""

import argparse

import torch
from timing import describe, print_table

from mmdefmamba.analysis.timing import alternate
from mmdefmamba.scans import SCANS, ScanContext, build_scan


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--channels', type=int, default=48)
    parser.add_argument('--size', type=int, default=56)
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()

    torch.manual_seed(0)
    x = torch.randn(args.batch, args.channels, args.size, args.size, device=args.device)
    context = ScanContext(args.channels, map_size=(args.size, args.size))
    scans = {name: build_scan(name, context).to(args.device) for name in SCANS.module_dict}
    with torch.inference_mode():
        calls = {name: lambda scan=scan: scan(x) for name, scan in scans.items()}
        seconds = alternate(calls, args.rounds, args.device)
    print(f'{describe(args.device)}, {tuple(x.shape)}, median of {args.rounds}; static orders are cached')
    print_table(['scan', 'ms'], [[name, f'{1000 * value:.1f}'] for name, value in seconds.items()])


if __name__ == '__main__':
    main()
