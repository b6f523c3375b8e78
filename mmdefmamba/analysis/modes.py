"""Looking at a model without leaving a trace in it."""

import random
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def evaluating(model):
    """Within the block ``model`` is in eval mode; afterwards every part of it has the mode that it had before.

    ``model.train()`` would not do: parts can be in another mode than the whole, frozen ones for example.
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
    """After the block Python, NumPy and PyTorch, on every device, draw what they would have drawn without it."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
