"""The rules of precision shared by all ops: never compute below float32, and never hand on an overflow of float16."""

import torch


def at_least_float32(x):
    """Return ``x`` in float32, or in its own dtype where that is wider (float64 stays float64)."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def saturate(x):
    """Bring what overflowed float16 back to its largest number, 65504; without a gradient there, as of any clamp.

    A state space model multiplies four of its activations: what is fine in float32 and bfloat16 can be infinite in
    float16, and NaN a layer later. NaN stays NaN, and other dtypes pass as they are.
    """
    if x.dtype != torch.float16:
        return x
    limit = torch.finfo(x.dtype).max
    return x.clamp(-limit, limit)
