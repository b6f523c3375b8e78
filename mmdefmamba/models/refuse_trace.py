"""A clear error for torch.jit.trace, which would keep the orders of the traced image for all others."""

import sys

import torch

#: The functions of PyTorch that make a file or a module of a trace; counters of FLOPs use another one.
_TRACERS = {'trace', '_trace_impl', 'trace_module'}


def refuse_jit_trace():
    """Refuse torch.jit.trace, and torch.onnx.export with ``dynamo=False``.

    A trace records the kernels as constants, and with them the learned orders and the size of the traced image. A trace
    that only counts FLOPs, as MMEngine's, is not refused.

    Raises:
        ValueError: one of them runs.
    """
    if torch.jit.is_tracing() and (torch.onnx.is_in_onnx_export() or _is_in_jit_trace()):
        raise ValueError(
            'DefMamba cannot be exported with torch.jit.trace, nor with torch.onnx.export(dynamo=False): the orders of '
            'the traced image would become constants. Use tools/export.py CONFIG CHECKPOINT OUT (or `mmdefmamba '
            'export`, or mmdefmamba.export.export_model), which writes ONNX or .pt2 files and checks them'
        )


def _is_in_jit_trace():
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in _TRACERS and frame.f_globals.get('__name__') == 'torch.jit._trace':
            return True
        frame = frame.f_back
    return False
