"""Parameters and FLOPs, counted in the conventions of the papers of this field."""

import warnings
from math import prod

import torch
from mmengine.analysis import FlopAnalyzer, parameter_count

from ..ops.sequence_scan import use_backend


class _CountedScan(torch.autograd.Function):
    """A selective scan as one node of the trace, which takes all inputs of the scan.

    If it did not take an input, everything that is computed only for that input would be missing from the trace and
    from the count.
    """

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, delta_bias):
        return torch.zeros_like(u)


SCAN_NODE = f'prim::PythonOp.{_CountedScan.__name__}'


def _counted_scan(u, delta, A, B, C, D, delta_bias, delta_softplus):
    return _CountedScan.apply(u, delta, A, B, C, D, delta_bias)


def released_scan_flops(batch, channels, length, states):
    """Count one selective scan in the convention of the released code: 3.5 * B D L N + 2 * B D L."""
    return batch * channels * length * (3.5 * states + 2)


def vmamba_scan_flops(batch, channels, length, states):
    """Count one selective scan in VMamba's convention: 9 * B L D N."""
    return 9 * batch * channels * length * states


def _sizes(value):
    return value.type().sizes()


def _count_baddbmm(inputs, outputs):
    """Count the products of queries and keys in an attention with a mask; MMEngine leaves them out."""
    (batch, rows, inner), columns = _sizes(inputs[1]), _sizes(inputs[2])[-1]
    return batch * rows * inner * columns


def _count_attention(inputs, outputs):
    """Count both products of PyTorch's fused attention, which MMEngine leaves out."""
    query, key, value = map(_sizes, inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _count_sampling(inputs, outputs):
    """Count a bilinear read as MMEngine counts ``F.grid_sample``, whose operator on tensors has another name."""
    return 4 * prod(_sizes(outputs[0]))


#: Operators that MMEngine's analyzer would count as 0.
HANDLES = {
    'aten::baddbmm': _count_baddbmm,
    'aten::grid_sampler_2d': _count_sampling,
    'aten::scaled_dot_product_attention': _count_attention,
}


def complexity(model, input_shape, forward=None):
    """Count the parameters and the multiply-adds of one forward pass.

    MMEngine's analyzer counts, as the released code does: 1 per multiply-add, 4 per output element of bilinear
    sampling, and 0 for activations, gathers, sorts and RoI pooling. Attention counts the same with and without a mask,
    fused or not. The selective scan is counted by formula, the same for every backend.

    Args:
        model: any module, with or without DefMamba backbones; its mode and device do not change.
        input_shape: (channels, height, width) of one image.
        forward: a function of one batch of images (1, channels, height, width) that is counted instead of the model,
            for models whose forward takes more than images.

    Returns:
        dict of ints: ``params``; ``flops``, everything, with the scan in the released convention; ``scan_flops``, the
        scan alone; ``flops_without_scan``, which is what the paper prints; ``scan_flops_vmamba``, the scan alone in
        VMamba's convention.

    Raises:
        ValueError: ``input_shape`` is not three positive integers.

    Source: fvcore's counting rules, through MMEngine; the numbers of the paper are without the scan.
    """
    input_shape = tuple(input_shape)
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(f'input_shape must be (channels, height, width), all positive, got {input_shape}')
    parameter = next(model.parameters())
    images = torch.zeros(1, *input_shape, dtype=parameter.dtype, device=parameter.device)
    traced = model if forward is None else _Traced(model, forward)
    scans = []

    def count_scan(inputs, outputs):
        (batch, channels, length), states = inputs[0].type().sizes(), inputs[2].type().sizes()[1]
        scans.append((batch, channels, length, states))
        return released_scan_flops(batch, channels, length, states)

    analyzer = FlopAnalyzer(traced, images)
    analyzer.set_op_handle(SCAN_NODE, count_scan)
    for name, handle in HANDLES.items():
        analyzer.set_op_handle(name, handle)
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings('none')
    training = model.training
    model.eval()
    try:
        # with gradients the trace would keep every activation; the deprecation warning is about the tracer itself
        with use_backend(_counted_scan), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter('ignore', DeprecationWarning)
            flops = analyzer.total()
    finally:
        model.train(training)
    scan_flops = sum(released_scan_flops(*scan) for scan in scans)
    return {
        'params': int(parameter_count(model)['']),
        'flops': int(flops),
        'scan_flops': int(scan_flops),
        'flops_without_scan': int(flops - scan_flops),
        'scan_flops_vmamba': int(sum(vmamba_scan_flops(*scan) for scan in scans)),
    }


class _Traced(torch.nn.Module):
    """A module that calls a function, and contains the model whose parameters the function uses."""

    def __init__(self, model, function):
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, images):
        return self.function(images)
