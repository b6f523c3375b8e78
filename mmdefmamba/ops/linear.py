"""Linear layers. On a CPU there are two libraries for their matrix products, and which is faster depends on the core.

PyTorch's wheels contain both: MKL, which ``F.linear`` calls, and oneDNN. On AMD cores with AVX-512, MKL reaches 84 to
103 GFLOP/s with one thread and oneDNN 160 to 235. On Intel cores, and on any core with AVX2 only, MKL is as fast or
faster. docs/benchmarks.md has the measurements.

The choice follows the kind of core and is never measured at run time: the same machine takes the same library in each
run, so that a resumed training continues bit for bit. PyTorch offers oneDNN's product of float32 matrices only as a
private operator, which torch.compile uses. This module alone calls it, and only where it exists. (A public convolution
with a 1x1 kernel reaches oneDNN too, but with one thread and fewer than 16 images PyTorch computes it with MKL.)
"""

import contextlib
import functools
import logging
import os
import platform
from pathlib import Path

import torch
import torch.nn.functional as F

from .precision import without_autocast
from .sequence_scan.interface import prefers_triton
from .tensors import needs_gradient
from .transforms import is_float32_on_cpu, is_transformed
from .triton_maps import bias_gelu_triton

BACKENDS = ('onednn', 'torch')
#: Environment variable that names the backend for the whole process: 'auto', 'onednn' or 'torch'.
VARIABLE = 'MMDEFMAMBA_LINEAR'
_logger = logging.getLogger('mmdefmamba')
_forced_backend = None


def linear(x, weight, bias=None):
    """Compute ``x @ weight.T + bias``, as ``F.linear`` does, with the faster library for this CPU.

    Tensors that are not float32 on a CPU go to ``F.linear``, and so does everything under torch.compile, torch.export,
    torch.func, autocast and FLOP counters. Both backends have float32 precision; their last bits differ.

    Args:
        x: (..., in_features), any strides.
        weight: (out_features, in_features).
        bias: (out_features,), or None.

    Returns:
        (..., out_features).

    Raises:
        RuntimeError: the shapes do not fit each other, or 'onednn' was asked for and this PyTorch does not have it.
        ValueError: the environment variable ``MMDEFMAMBA_LINEAR`` names no backend.
    """
    if not _takes_onednn(x, weight, bias):
        return F.linear(x, weight, bias)
    if needs_gradient(x, weight, bias):
        return _OneDNNLinear.apply(x, weight, bias)
    return _onednn(x, weight, bias)


def linear_gelu(x, weight, bias=None):
    """Compute ``F.gelu(linear(x, weight, bias))``. Without gradients the result of the product is not stored apart.

    Where the Triton kernels run, GELU adds the bias, in float32, and its backward sums the bias's gradient in the same
    pass, in a fixed order.

    Args, returns and raises: see :func:`linear`. GELU is the exact one, with the error function.
    """
    if _takes_triton(x, weight, bias):
        product = F.linear(x, weight)
        with without_autocast(x.device.type):
            in_place = product.is_contiguous() and not needs_gradient(product, bias) and not is_transformed()
            return bias_gelu_triton(product, bias, in_place=in_place)
    if needs_gradient(x, weight, bias) or is_transformed():
        return F.gelu(linear(x, weight, bias))
    if _takes_onednn(x, weight, bias):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'gelu', [], 'none')
    product = F.linear(x, weight, bias)
    # in place: a second map of this size costs up to twice the time of the product, most of it for memory pages
    return torch.ops.aten.gelu_(product) if type(product) is torch.Tensor else F.gelu(product)


@contextlib.contextmanager
def use_linear(backend):
    """Make every :func:`linear` within the block use one backend. It serves measurements; it is not thread-safe.

    Args:
        backend: 'onednn', 'torch' (``F.linear``), or 'auto'.

    Raises:
        ValueError: the backend is unknown.
        RuntimeError: 'onednn' is not part of this PyTorch.
    """
    global _forced_backend
    _check(backend, 'backend')
    before, _forced_backend = _forced_backend, None if backend == 'auto' else backend
    try:
        yield
    finally:
        _forced_backend = before


@functools.cache
def linear_backend():
    """Return the backend of :func:`linear` in this process, and the reason for it.

    The environment variable ``MMDEFMAMBA_LINEAR`` decides, else the kind of core. Both are read once.

    Raises:
        ValueError: the variable names no backend.
        RuntimeError: the variable asks for 'onednn', and this PyTorch does not have it.
    """
    asked = os.environ.get(VARIABLE, 'auto').strip().lower() or 'auto'
    _check(asked, f'environment variable {VARIABLE}')
    if asked != 'auto':
        return asked, f'{VARIABLE}={asked}'
    return rule(cpu_vendor(), torch.backends.cpu.get_cpu_capability(), _missing())


def rule(vendor, capability, missing):
    """Return the backend for a kind of core, and the reason.

    Args:
        vendor: as of :func:`cpu_vendor`.
        capability: PyTorch's name of the vector instructions, such as 'AVX512'.
        missing: why oneDNN cannot be used, or None.
    """
    if missing:
        return 'torch', missing
    if vendor == 'AMD' and capability == 'AVX512':
        return 'onednn', 'an AMD core with AVX-512, where it is faster than MKL'
    return 'torch', f'{vendor or "unknown"} core, {capability}: oneDNN was not measured to be faster there'


def cpu_vendor():
    """Return 'AMD', 'Intel', or None for any other vendor."""
    try:
        text = Path('/proc/cpuinfo').read_text().partition('\n\n')[0]
    except OSError:  # not Linux
        text = platform.processor()
    vendors = {'AuthenticAMD': 'AMD', 'GenuineIntel': 'Intel'}
    return next((vendor for name, vendor in vendors.items() if name in text), None)


def _missing():
    if not torch.backends.mkldnn.is_available():
        return 'this PyTorch was built without oneDNN'
    if not hasattr(torch.ops.mkldnn, '_linear_pointwise'):
        return f'PyTorch {torch.__version__} has no operator mkldnn._linear_pointwise'
    return None


def _check(backend, what):
    if backend not in ('auto', *BACKENDS):
        raise ValueError(f"{what} must be 'auto' or one of {BACKENDS}, got {backend!r}")
    if backend == 'onednn' and _missing():
        raise RuntimeError(f"the linear backend 'onednn' cannot run: {_missing()}. Take 'torch' or 'auto'")


@functools.cache
def _log_choice():
    _logger.info('linear layers on the CPU: backend %s (%s)', *linear_backend())


def _takes_triton(x, weight, bias):
    return (
        bias is not None
        and prefers_triton(x, (weight, bias))
        and weight.ndim == 2
        and bias.shape == weight.shape[:1]
        and (torch.is_autocast_enabled(x.device.type) or weight.dtype == bias.dtype == x.dtype)
    )


def _takes_onednn(x, weight, bias):
    if is_transformed() or not is_float32_on_cpu(x, weight, bias):
        return False
    if _forced_backend is None:
        _log_choice()
    return (
        (_forced_backend or linear_backend()[0]) == 'onednn'
        and torch.backends.mkldnn.enabled
        # F.linear serves what is left: it knows each of these cases, or says what is wrong with it
        and x.ndim > 1
        and weight.ndim == 2
        and x.shape[-1] == weight.shape[1]
        and x.numel() > 0
        and weight.is_contiguous()
        and weight.numel() > 0
        and (bias is None or bias.shape == weight.shape[:1])
    )


def _onednn(x, weight, bias=None):
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows, grad_rows = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        if torch.is_grad_enabled():  # for second derivatives: oneDNN's operator has none
            with torch.autocast('cpu', enabled=False):
                dx, dweight = grad @ weight if of_x else None, grad_rows.t() @ rows if of_weight else None
        else:
            dx = _gradient_of_x(grad, weight) if of_x else None
            dweight = _gradient_of_weight(grad_rows, rows) if of_weight else None
        return dx, dweight, grad_rows.sum(0) if of_bias else None


def _gradient_of_x(grad, weight):
    # a transposed view is read as it is; for a result wider than the gradient a transposed copy is faster
    columns = weight.t()
    return _onednn(grad, columns.contiguous() if weight.shape[1] > weight.shape[0] else columns)


def _gradient_of_weight(grad_rows, rows):
    # oneDNN copies its first argument into row-major order: that is the narrower of the two
    if rows.shape[1] < grad_rows.shape[1]:
        return _onednn(rows.t(), grad_rows.t()).t()
    return _onednn(grad_rows.t(), rows.t())
