"""LayerNorm of a map, with additions before it and a GELU after it, as an operator of PyTorch."""

import torch

#: Numbers of a program, 16 for each thread of four warps
NUMBERS = 2048
#: Programs of the backward, each of which writes sums of the parameters' gradients.
MAX_PROGRAMS = 1024


def _tiling(x):
    import triton

    columns = triton.next_power_of_2(x.shape[-1])
    rows, per_program = x.numel() // x.shape[-1], max(1, NUMBERS // columns)
    return rows, -(-rows // per_program), dict(R=per_program, C_BLOCK=columns, num_warps=4)


@torch.library.custom_op(
    'mmdefmamba::add_norm',
    mutates_args=(),
    schema='(Tensor x, Tensor? branch, Tensor? scale, Tensor? shift, Tensor weight, Tensor bias, float eps, bool gelu, '
    'ScalarType dtype) -> (Tensor, Tensor)',
)
def _add_norm(x, branch, scale, shift, weight, bias, eps, gelu, dtype):
    from .norm_kernels import norm_forward

    inputs = (x, branch, scale, shift, weight, bias)
    x, branch, scale, shift, weight, bias = (None if t is None else t.contiguous() for t in inputs)
    total, normed = _empty_results(x, branch, scale, shift, weight, bias, eps, gelu, dtype)
    rows, tiles, sizes = _tiling(x)
    with torch.cuda.device_of(x):
        norm_forward[(tiles,)](
            *(x, branch, scale, shift, weight, bias, total, normed, rows, rows // len(x), x.shape[-1], eps),
            **dict(HAS_BRANCH=branch is not None, HAS_SCALE=scale is not None, HAS_SHIFT=shift is not None),
            **dict(GELU=gelu, **sizes),
        )
    return total, normed


@_add_norm.register_fake
def _empty_results(x, branch, scale, shift, weight, bias, eps, gelu, dtype):
    total = x.new_empty(0 if branch is None else x.shape, dtype=_dtype_of_sum(x, branch))
    return total, x.new_empty(x.shape, dtype=dtype)


def _dtype_of_sum(x, branch):
    return x.dtype if branch is None else torch.promote_types(x.dtype, branch.dtype)


@torch.library.custom_op(
    'mmdefmamba::add_norm_backward',
    mutates_args=(),
    schema='(Tensor? dtotal, Tensor dnormed, Tensor total, Tensor? scale, Tensor? shift, Tensor weight, Tensor bias, '
    'float eps, bool gelu, ScalarType dtype, ScalarType? branch_dtype) -> (Tensor, Tensor, Tensor, Tensor, Tensor)',
)
def _add_norm_backward(dtotal, dnormed, total, scale, shift, weight, bias, eps, gelu, dtype, branch_dtype):
    from .norm_kernels import norm_backward

    inputs = (dtotal, dnormed, total, shift, weight, bias)
    dtotal, dnormed, total, shift, weight, bias = (None if t is None else t.contiguous() for t in inputs)
    dx, dbranch, *of_parameters = _empty_gradients(
        dtotal, dnormed, total, scale, shift, weight, bias, eps, gelu, dtype, branch_dtype
    )
    rows, tiles, sizes = _tiling(total)
    programs, channels = min(tiles, MAX_PROGRAMS), total.shape[-1]
    sums = total.new_empty(programs, 2 + (shift is not None), channels, dtype=torch.float32)
    with torch.cuda.device_of(total):
        norm_backward[(programs,)](
            *(dtotal, dnormed, total, scale, shift, weight, bias, dx, dbranch, sums),
            *(rows, rows // len(total), channels, tiles, eps),
            **dict(HAS_DTOTAL=dtotal is not None, HAS_SCALE=scale is not None, HAS_SHIFT=shift is not None),
            **dict(HAS_DBRANCH=branch_dtype is not None, GELU=gelu, **sizes),
        )
        # of weight, bias and shift; without a shift its gradient is empty
        for gradient, of_parameter in zip(of_parameters, sums.sum(0), strict=False):
            gradient.copy_(of_parameter)
    return dx, dbranch, *of_parameters


@_add_norm_backward.register_fake
def _empty_gradients(dtotal, dnormed, total, scale, shift, weight, bias, eps, gelu, dtype, branch_dtype):
    dbranch = total.new_empty(0 if branch_dtype is None else total.shape, dtype=branch_dtype or dtype)
    dshift = total.new_empty(0) if shift is None else shift.new_empty(shift.shape)
    parameters = (weight.new_empty(weight.shape), bias.new_empty(bias.shape), dshift)
    return total.new_empty(total.shape, dtype=dtype), dbranch, *parameters


def _save(ctx, inputs, output):
    x, branch, scale, shift, weight, bias, ctx.eps, ctx.gelu, _ = inputs
    total = x if branch is None else output[0]
    ctx.save_for_backward(total, scale, shift, weight, bias)
    ctx.dtype, ctx.branch_dtype = x.dtype, None if branch is None else branch.dtype
    ctx.set_materialize_grads(False)
    if branch is None:
        ctx.mark_non_differentiable(output[0])


def _backward(ctx, dtotal, dnormed):
    total, scale, shift, weight, bias = ctx.saved_tensors
    if ctx.branch_dtype is None:
        dtotal = None
    if dnormed is None:
        if dtotal is None:
            return (None,) * 9
        dbranch = dtotal if scale is None else dtotal * scale.view(-1, *[1] * (total.ndim - 1))
        return dtotal.to(ctx.dtype), dbranch.to(ctx.branch_dtype), *(None,) * 7
    # without a scale and in one dtype the gradients of both terms are the same numbers
    shared = scale is None and ctx.branch_dtype == ctx.dtype
    dx, dbranch, dweight, dbias, dshift = torch.ops.mmdefmamba.add_norm_backward(
        *(dtotal, dnormed, total, scale, shift, weight, bias, ctx.eps, ctx.gelu, ctx.dtype),
        None if shared else ctx.branch_dtype,
    )
    if shared:
        dbranch = dx
    elif ctx.branch_dtype is None:
        dbranch = None
    return dx, dbranch, None, None if shift is None else dshift, dweight, dbias, None, None, None


_add_norm.register_autograd(_backward, setup_context=_save)


def add_norm_triton(x, branch, scale, weight, bias, eps, dtype):
    """Return x + scale * branch and its LayerNorm from a Triton kernel.

    Args:
        x, branch: (B, ..., C).
        scale: a factor for each image, (B,), or None. It gets no gradient.
        weight, bias: (C,).
        eps: is added to the variance.
        dtype: of the second result.
    """
    return torch.ops.mmdefmamba.add_norm(x, branch, scale, None, weight, bias, eps, False, dtype)


def norm_triton(x, shift, weight, bias, eps, gelu, dtype):
    """Return LayerNorm(x + shift), or with ``gelu`` the GELU of it, from a Triton kernel; see :func:`add_norm_triton`.

    Args:
        shift: (C,), or None.
    """
    return torch.ops.mmdefmamba.add_norm(x, None, None, shift, weight, bias, eps, gelu, dtype)[1]
