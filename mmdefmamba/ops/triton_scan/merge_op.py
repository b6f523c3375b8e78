"""The merge of the scans as an operator of PyTorch."""

import torch

from ..tensors import channel_last, check_offsets, grid_of

BLOCK = 1024


@torch.library.custom_op('mmdefmamba::merge_scans', mutates_args=(), schema='(Tensor y, Tensor z) -> Tensor')
def _merge(y, z):
    import triton

    from .merge_kernels import merge_forward

    batch, scans, length, channels = y.shape
    y, z = y.contiguous(), channel_last(z)
    check_offsets('z', z)
    out = _empty_merged(y, z)
    size = length * channels
    with torch.cuda.device_of(y):
        merge_forward[grid_of(triton.cdiv(size, BLOCK) * batch)](
            *(y, z, out, size, channels, z.stride(0), z.stride(1)), K=scans, BLOCK=BLOCK
        )
    return out


@_merge.register_fake
def _empty_merged(y, z):
    return z.new_empty(z.shape, dtype=torch.promote_types(y.dtype, z.dtype))


@torch.library.custom_op(
    'mmdefmamba::merge_scans_backward',
    mutates_args=(),
    schema='(Tensor dout, Tensor y, Tensor z) -> (Tensor, Tensor)',
)
def _merge_backward(dout, y, z):
    import triton

    from .merge_kernels import merge_backward

    batch, scans, length, channels = y.shape
    dout, y, z = dout.contiguous(), y.contiguous(), channel_last(z)
    dy, dz = y.new_empty(z.shape), z.new_empty(z.shape)
    size = length * channels
    with torch.cuda.device_of(y):
        merge_backward[grid_of(triton.cdiv(size, BLOCK) * batch)](
            *(dout, y, z, dy, dz, size, channels, z.stride(0), z.stride(1)), K=scans, BLOCK=BLOCK
        )
    return dy, dz


@_merge_backward.register_fake
def _(dout, y, z):
    return y.new_empty(z.shape), z.new_empty(z.shape)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, dout):
    y, z = ctx.saved_tensors
    dy, dz = torch.ops.mmdefmamba.merge_scans_backward(dout, y, z)
    return dy.unsqueeze(1).expand_as(y), dz


_merge.register_autograd(_backward, setup_context=_save)


def merge_scans_triton(y, z):
    """Return mean_k(y_k) * SiLU(z) from Triton kernels; arguments as of :func:`~mmdefmamba.ops.merge_scans`."""
    return torch.ops.mmdefmamba.merge_scans(y, z)
