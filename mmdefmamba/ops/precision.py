"""The one rule of precision shared by all ops: never compute below float32."""

import torch


def at_least_float32(x):
    """Return ``x`` in float32, or in its own dtype where that is wider (float64 stays float64)."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
