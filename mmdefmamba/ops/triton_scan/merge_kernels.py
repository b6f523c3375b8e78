"""Kernels that average the scans and gate the mean: one pass over memory forward and one backward."""

import triton
import triton.language as tl

from .blocks import sigmoid_of


@triton.jit
def _image_and_elements(size, BLOCK: tl.constexpr):
    """Return the image of a program in 64 bits, and the elements of its block."""
    blocks = tl.cdiv(size, BLOCK)
    program = tl.program_id(0)
    return (program // blocks).to(tl.int64), program % blocks * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _total_and_gate(y, z, b, i, inside, size, channels, z_b, z_l, K: tl.constexpr, BLOCK: tl.constexpr):
    """Return the sum of y over scans, and z, for the elements ``i`` of image ``b``, in float32."""
    total = tl.zeros([BLOCK], tl.float32)
    for k in tl.static_range(K):
        total += tl.load(y + (b * K + k) * size + i, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(z + b * z_b + (i // channels) * z_l + i % channels, mask=inside, other=0.0).to(tl.float32)
    return total, gate


@triton.jit
def merge_forward(y, z, out, size, channels, z_b, z_l, K: tl.constexpr, BLOCK: tl.constexpr):
    """Compute out = (mean of y over scans) * SiLU(z) for a block of tokens x channels of one image."""
    b, i = _image_and_elements(size, BLOCK)
    inside = i < size
    total, gate = _total_and_gate(y, z, b, i, inside, size, channels, z_b, z_l, K, BLOCK)
    merged = total * (1.0 / K) * gate * sigmoid_of(gate)
    tl.store(out + b * size + i, merged.to(out.dtype.element_ty), mask=inside)


@triton.jit
def merge_backward(dout, y, z, dy, dz, size, channels, z_b, z_l, K: tl.constexpr, BLOCK: tl.constexpr):
    """Compute the gradients of z and of y. The gradient of y is the same for each scan and is written once."""
    b, i = _image_and_elements(size, BLOCK)
    inside = i < size
    total, gate = _total_and_gate(y, z, b, i, inside, size, channels, z_b, z_l, K, BLOCK)
    sigmoid = sigmoid_of(gate)
    gradient = tl.load(dout + b * size + i, mask=inside, other=0.0).to(tl.float32) * (1.0 / K)
    dgate = gradient * total * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    tl.store(dy + b * size + i, (gradient * gate * sigmoid).to(dy.dtype.element_ty), mask=inside)
    tl.store(dz + b * size + i, dgate.to(dz.dtype.element_ty), mask=inside)
