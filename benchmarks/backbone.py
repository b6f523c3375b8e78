"""Whole networks, inference: DefMamba, the same on a per-token loop, and torchvision's Swin-T, by turns in one run."""

import argparse

import torch
import torchvision
from loops import materialising_loop
from timing import describe, print_table

from mmdefmamba.analysis.timing import alternate
from mmdefmamba.models import ARCHITECTURES, DefMamba
from mmdefmamba.ops.selective_scan import use_backend


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--arch', default='small', choices=ARCHITECTURES)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()

    torch.manual_seed(0)
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    defmamba = DefMamba(args.arch, out_indices=(3,)).to(args.device).eval()
    swin = torchvision.models.swin_t().to(args.device).eval()

    def looped():
        with use_backend(materialising_loop):
            defmamba(images)

    with torch.inference_mode():
        seconds = alternate(
            {
                f'DefMamba {args.arch}': lambda: defmamba(images),
                f'DefMamba {args.arch}, per-token loop': looped,
                'Swin-T, torchvision': lambda: swin(images),
            },
            args.rounds,
            args.device,
        )
    print(f'{describe(args.device)}, batch {args.batch}, {args.size} x {args.size}, inference')
    rate = {name: args.batch / value for name, value in seconds.items()}
    first = next(iter(rate.values()))
    print_table(
        ['network', 'images/s', 'DefMamba against it'],
        [[name, f'{value:.2f}', f'{first / value:.2f}x'] for name, value in rate.items()],
    )


if __name__ == '__main__':
    main()
