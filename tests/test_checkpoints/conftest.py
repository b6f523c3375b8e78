import io
from pathlib import Path

import pytest
import torch

RELEASED = Path(__file__).parents[1] / 'data' / 'released'


@pytest.fixture(scope='session')
def released_file():
    """Return a file as the authors' code writes it, with random weights.

    The network has the dims 16, 32, 64, 128, the depths 1, 2, 1, 1 and 10 classes.
    """
    return RELEASED / 'checkpoint.pth'


@pytest.fixture
def checkpoint(released_file):
    return torch.load(released_file, weights_only=True)


@pytest.fixture(scope='session')
def record():
    """Return what the released implementation computes from the checkpoint in float64.

    The gradients of parameters are stored in float32.
    """
    return torch.load(RELEASED / 'expected.pth', weights_only=True)


@pytest.fixture(scope='session')
def assert_same():
    """Return ``check(a, b)``, which asserts that two state dicts hold the same tensors."""

    def check(a, b):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            assert torch.equal(a[name], b[name]), name

    return check


@pytest.fixture
def evil(tmp_path, creates_file):
    """Return the path of a checkpoint that creates a file when it is unpickled, and the path of that file."""
    file, mark = tmp_path / 'evil.pth', tmp_path / 'code_ran'
    weights = torch.nn.ModuleDict({'fc': torch.nn.Linear(4, 2)}).state_dict()
    torch.save({'state_dict': weights, 'meta': creates_file(str(mark), io.open)}, file)
    return str(file), mark


@pytest.fixture
def assert_refused():
    """Return ``check(error, file, offender)``: it asserts that the error names the file, the function and the remedies.

    The default ``offender`` is the function that the ``evil`` checkpoint calls.
    """

    # Python 3.13 pickles it as _io.open, earlier versions as io.open.
    def check(error, file, offender=f'{io.open.__module__}.open'):
        text = str(error.value)
        assert file in text and f'it needs {offender}.' in text
        assert 'trust_checkpoints' in text and 'torch.save' in text

    return check
