"""What the operators, their fake kernels and the launches must agree on: limits, and the layout of the results.

Results are row-major, whatever the strides of the inputs: torch.compile relies on what a fake kernel promises.
"""

import torch

# Tokens between two checkpoints of the state. The backward recomputes the states between them.
CHECKPOINT = 64
# A kernel has an argument for the rows of each scan and for each map.
MAX_SCANS = 4
MAX_SOURCES = 4
MAX_STATES = 256


def scanned_shape(sources, walks):
    """Return the numbers of images, scans, tokens and channels."""
    batch, _, length, channels = sources[0].shape
    return batch, len(walks), length, channels


def empty_results(sources, A, walks, save_states):
    """Return empty results of the forward: y (B, K, L, C), and the states at checkpoints.

    The states are (B, K, L / CHECKPOINT, N, C) in float32, or (0,) without ``save_states``.
    """
    batch, scans, length, channels = shape = scanned_shape(sources, walks)
    y = sources[0].new_empty(shape)
    checkpoints = (length + CHECKPOINT - 1) // CHECKPOINT
    shape = (batch, scans, checkpoints, A.shape[1], channels) if save_states else (0,)
    return y, y.new_empty(shape, dtype=torch.float32)


def empty_rows(projected):
    """Return an empty gradient of the rows of all scans, (B, L, K, columns).

    So the gradients of scans that are columns of one matrix product lie side by side, see :mod:`..columns`.
    """
    batch, length, columns = projected[0].shape
    return projected[0].new_empty(batch, length, len(projected), columns)


def empty_gradients(sources, projected, delta, dt_weight, A, D, delta_bias, walks):
    """Return empty results of the backward.

    They are the gradient of u for each scan (B, K, L, C), that of the rows (B, L, K, columns), and those of delta,
    dt_weight, A, D and delta_bias, each in the shape and dtype of its input, or (0,) where there is none.
    """

    def like(x):
        return sources[0].new_empty(0) if x is None else x.new_empty(x.shape)

    du = sources[0].new_empty(scanned_shape(sources, walks))
    return du, empty_rows(projected), *(like(x) for x in (delta, dt_weight, A, D, delta_bias))


def row_major(x, like):
    """Return ``x`` in the shape and dtype of ``like``, with the strides of a new tensor: copied only where it must be.

    A view of a sum has strides of its own, which differ where a dimension has the size 1.
    """
    x = x.reshape(like.shape).to(like.dtype)
    strides = torch.empty(x.shape, device='meta').stride()
    return x if x.stride() == strides else x.clone(memory_format=torch.contiguous_format)
