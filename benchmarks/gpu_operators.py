"""The single operators that ``gpu.sh`` times: PyTorch's own for NCHW and for NHWC maps, and the kernels of the package.

Each entry of ``OPERATORS`` makes a step from (device, batch, channels, side of the map, size of the offset network's
convolution, training, way); the way is 'nchw', 'nhwc' or 'triton'.
"""

import torch
import torch.nn.functional as F

from mmdefmamba.ops import TokenOrder, use_backend
from mmdefmamba.ops.depthwise_conv import depthwise_conv
from mmdefmamba.ops.sampling import sample_offsets
from mmdefmamba.scans import ScanContext, build_scan
from mmdefmamba.scans.deformable import KERNEL_SIZES


def operator(function):
    """Return a maker of steps.

    Args:
        function: it takes (device, channels, side, kernel, batch) and returns a function of a map (B, C, H, W), and the
            parameters that get a gradient beside the map.
    """

    def make(device, batch, channels, side, kernel, training, way):
        torch.manual_seed(0)
        layout = torch.contiguous_format if way == 'nchw' else torch.channels_last
        x = torch.randn(batch, channels, side, side, device=device).bfloat16().contiguous(memory_format=layout)
        run, parameters = function(device, channels, side, kernel, batch)
        x.requires_grad_(training)

        def step():
            with use_backend('triton' if way == 'triton' else 'blockwise'), torch.set_grad_enabled(training):
                y = run(x)
                return torch.autograd.grad(y, [x, *parameters], torch.ones_like(y)) if training else y

        return step

    return make


def depthwise(device, channels, side, kernel, batch, silu=False):
    weight = torch.randn(channels, 1, kernel, kernel, device=device, dtype=torch.bfloat16, requires_grad=True)
    bias = torch.randn(channels, device=device, dtype=torch.bfloat16, requires_grad=True)
    return lambda x: depthwise_conv(x, weight, bias, silu=silu), [weight, bias]


def depthwise_silu(device, channels, side, kernel, batch):
    return depthwise(device, channels, side, 3, batch, silu=True)


def sampling(device, channels, side, kernel, batch):
    offsets = ((torch.rand(batch, side, side, 2, device=device) * 2 - 1) / side).requires_grad_()
    table = torch.randn(channels, side, side, device=device, requires_grad=True)
    return lambda x: sample_offsets(x, offsets, table), [offsets, table]


def layer_norm(device, channels, side, kernel, batch):
    weight, bias = (torch.ones(channels, device=device, requires_grad=True) for _ in range(2))

    def run(x):  # as autocast runs it: in float32
        return F.layer_norm(x.permute(0, 2, 3, 1).float(), (channels,), weight, bias).bfloat16()

    return run, [weight, bias]


def order(device, channels, side, kernel, batch):
    keys = torch.rand(batch, side * side, device=device)
    return lambda x: TokenOrder.from_keys(keys).order, []


def deformable_scan(device, channels, side, kernel, batch):
    context = ScanContext(channels, KERNEL_SIZES.index(kernel), (side, side))
    scan = build_scan('deformable', context).to(device)

    def run(x):
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            return scan(x)[0]

    return run, [p for name, p in scan.named_parameters() if 'table' in name]


OPERATORS = {
    'depthwise convolution of the offset network': operator(depthwise),
    'depthwise 3x3 and SiLU': operator(depthwise_silu),
    'sampling with offset bias': operator(sampling),
    'LayerNorm (no kernel of this package)': operator(layer_norm),
    'order: sort and int32': operator(order),
    'all of the deformable scan but the scan': operator(deformable_scan),
}
FORWARD_ONLY = ('order: sort and int32',)
