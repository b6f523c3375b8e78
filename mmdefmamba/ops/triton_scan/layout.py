"""What the operators, their fake kernels and the launches must agree on: limits, and the layout of the results.

Results are row-major, whatever the strides of the inputs: torch.compile relies on what a fake kernel promises.
"""

import torch

# Tokens between two checkpoints of the state. The backward recomputes the states between them.
CHECKPOINT = 64
# A kernel reads which map and which order a scan takes from one integer, eight bits per scan: the first two limits.
MAX_SCANS = 7
MAX_SOURCES = 4
MAX_STATES = 256


def empty_results(sources, delta, A, save_states):
    """Return empty results of the forward: y (B, K, L, C), and the states at checkpoints.

    The states are (B, K, L / CHECKPOINT, N, C) in float32, or (0,) without ``save_states``.
    """
    batch, scans, length, channels = delta.shape
    y = sources[0].new_empty(delta.shape)
    checkpoints = (length + CHECKPOINT - 1) // CHECKPOINT
    shape = (batch, scans, checkpoints, A.shape[1], channels) if save_states else (0,)
    return y, delta.new_empty(shape, dtype=torch.float32)


def empty_gradients(sources, delta, A, B, C, D, delta_bias):
    """Return empty results of the backward.

    They are the gradient of u for each scan, (B, K, L, C), and those of delta, A, B, C, D and delta_bias, each in the
    shape and dtype of its input, or (0,) where there is no D or delta_bias.
    """

    def like(x):
        return delta.new_empty(0) if x is None else x.new_empty(x.shape)

    return sources[0].new_empty(delta.shape), *(like(x) for x in (delta, A, B, C, D, delta_bias))


def row_major(x, like):
    """Return ``x`` in the shape and dtype of ``like``, with the strides of a new tensor: copied only where it must be.

    A view of a sum has strides of its own, which differ where a dimension has the size 1.
    """
    x = x.reshape(like.shape).to(like.dtype)
    strides = torch.empty(x.shape, device='meta').stride()
    return x if x.stride() == strides else x.clone(memory_format=torch.contiguous_format)
