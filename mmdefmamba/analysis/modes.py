"""Context managers that examine a model without changing its mode or the random numbers."""

import random
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def evaluating(model):
    """Within the block the model is in eval mode; afterwards each of its modules has its previous mode.

    Calling ``model.train()`` afterwards would be wrong, because some modules can stay in eval mode during training, for
    example frozen ones.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def same_random_numbers():
    """After the block Python, NumPy and PyTorch, on every device, draw the same random numbers as without the block."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
