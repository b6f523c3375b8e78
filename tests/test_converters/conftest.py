from pathlib import Path

import pytest
import torch

RELEASED = Path(__file__).parents[1] / 'data' / 'released'


@pytest.fixture(scope='session')
def released_file():
    """A file as the authors' code writes it, random weights: dims 16, 32, 64, 128, depths 1, 2, 1, 1, 10 classes."""
    return RELEASED / 'checkpoint.pth'


@pytest.fixture
def checkpoint(released_file):
    return torch.load(released_file, weights_only=True)


@pytest.fixture(scope='session')
def record():
    """What the released implementation computes from it in float64; gradients of parameters stored in float32."""
    return torch.load(RELEASED / 'expected.pth', weights_only=True)


@pytest.fixture(scope='session')
def assert_same():
    """``assert_same(a, b)``: two state dicts hold the same tensors."""

    def check(a, b):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            assert torch.equal(a[name], b[name]), name

    return check
