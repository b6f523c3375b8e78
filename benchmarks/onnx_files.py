"""Time exported ONNX files in onnxruntime against the network in PyTorch: blockwise, and the C kernels (native).

The candidates take turns. Before each timed call there is a pause, in which the threads of the others come to rest,
and one call that is not timed. Weights are random, as time does not depend on them; a difference of results is printed
as a share of the largest logit. A file is exported once and kept in the folder of --out.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from timing import print_table, threads_and_load
from torch import nn

from mmdefmamba.export.graph import trace
from mmdefmamba.export.onnx_file import to_onnx
from mmdefmamba.models import ARCHITECTURES, DefMamba
from mmdefmamba.ops import unavailable_reason

CLASSES = 1000
PAUSE = 0.05  # seconds; onnxruntime's threads wait busily for some milliseconds after a call


class Classifier(nn.Module):
    """A backbone, the mean over its last map, and a linear layer.

    Args:
        arch: 'tiny', 'small' or 'base'.
        backend: of the selective scan.
    """

    channels = 3

    def __init__(self, arch, backend):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = DefMamba(arch, out_indices=(3,), scan_backend=backend)
        self.head = nn.Linear(ARCHITECTURES[arch]['embed_dims'][-1], CLASSES)

    def forward(self, images):
        """Return logits in a tuple, (batch, classes)."""
        return (self.head(self.backbone(images)[0].mean((2, 3))),)


def exported(arch, folder):
    """Return the path of the ONNX file of an architecture, written if it is not there."""
    file = folder / f'{arch}.onnx'
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        begin = time.perf_counter()
        onnx.save(to_onnx(trace(Classifier(arch, 'auto').eval()), ['logits']), file)
        print(f'{arch}: exported in {time.perf_counter() - begin:.0f} s')
    return file


def candidates(arch, file, threads, images):
    """Return functions that compute the logits of ``images``, by name."""
    torch.set_num_threads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=['CPUExecutionProvider'])
    found = {'onnxruntime': lambda: session.run(None, {'images': images.numpy()})[0]}
    for backend in ('blockwise', 'native'):
        if unavailable_reason(backend, images) is None:
            network = Classifier(arch, backend).eval()
            found[backend] = torch.no_grad()(lambda network=network: network(images)[0].numpy())
    return found


def by_turns(functions, rounds):
    """Return the median seconds of each function."""
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            time.sleep(PAUSE)
            function()
            begin = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--networks', nargs='+', default=['tiny', 'small'], choices=ARCHITECTURES)
    parser.add_argument('--threads', nargs='+', type=int, default=[1, 2])
    parser.add_argument('--batch', nargs='+', type=int, default=[1])
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmarks'), help='folder of the exported files')
    args = parser.parse_args()
    files = {arch: exported(arch, args.out) for arch in args.networks}
    print(f'onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, float32, {threads_and_load()}')
    rows = []
    for arch in args.networks:
        for threads in args.threads:
            for batch in args.batch:
                images = torch.randn(batch, 3, args.size, args.size, generator=torch.Generator().manual_seed(0))
                functions = candidates(arch, files[arch], threads, images)
                logits = {name: function() for name, function in functions.items()}
                share = np.abs(logits['onnxruntime'] - logits['blockwise']).max() / np.abs(logits['blockwise']).max()
                seconds = by_turns(functions, args.rounds)
                ratios = [
                    seconds['onnxruntime'] / seconds[name] if name in seconds else None
                    for name in ('blockwise', 'native')
                ]
                times = [
                    seconds[name] * 1e3 if name in seconds else None for name in ('onnxruntime', 'blockwise', 'native')
                ]
                rows.append([arch, batch, threads, *times, *ratios, f'{share:.0e}'])
    header = ['network', 'batch', 'threads', 'onnxruntime ms', 'blockwise ms', 'native ms', 'to blockwise', 'to native']
    print_table([*header, 'difference'], rows)


if __name__ == '__main__':
    main()
