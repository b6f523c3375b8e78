"""In which type the operators compute."""

import torch


def compute_dtype(dtype):
    """Return the type to compute in for tensors of ``dtype``: float64 for float64, float32 for all others.

    Half types have no kernel on the CPU, no bfloat16 one anywhere, and hold no position in a map to a pixel.
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def promoted(*tensors):
    """Return the tensors in the type to compute in for the first of them."""
    dtype = compute_dtype(tensors[0].dtype)
    return [tensor.to(dtype) for tensor in tensors]
