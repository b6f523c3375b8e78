"""The kernel that adds up several maps in one pass."""

import triton
import triton.language as tl


@triton.jit
def sum_maps(
    x0, x1, x2, x3, x4, x5, out, size, channels,
    x0_b, x1_b, x2_b, x3_b, x4_b, x5_b, x0_l, x1_l, x2_l, x3_l, x4_l, x5_l,
    COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute the sum of the first COUNT maps for a block of tokens x channels of one image, in float32.

    Legend: b image, l token. Maps have unit stride over channels, and any strides over images and tokens, also 0.
    ``out`` is contiguous, and ``size`` is the number of tokens times channels.
    """
    blocks = tl.cdiv(size, BLOCK)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    i = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    token, c = i // channels, i % channels
    total = tl.load(x0 + b * x0_b + token * x0_l + c, mask=inside, other=0.0).to(tl.float32)
    if COUNT > 1:
        total += tl.load(x1 + b * x1_b + token * x1_l + c, mask=inside, other=0.0).to(tl.float32)
    if COUNT > 2:
        total += tl.load(x2 + b * x2_b + token * x2_l + c, mask=inside, other=0.0).to(tl.float32)
    if COUNT > 3:
        total += tl.load(x3 + b * x3_b + token * x3_l + c, mask=inside, other=0.0).to(tl.float32)
    if COUNT > 4:
        total += tl.load(x4 + b * x4_b + token * x4_l + c, mask=inside, other=0.0).to(tl.float32)
    if COUNT > 5:
        total += tl.load(x5 + b * x5_b + token * x5_l + c, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + b * size + i, total.to(out.dtype.element_ty), mask=inside)
