import io
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


class CreatesFile:
    """Calls ``function(path)`` when it is unpickled, which creates the file or folder."""

    def __init__(self, path, function):
        self.path, self.function = path, function

    def __reduce__(self):
        return self.function, (self.path, *(['w'] if self.function is io.open else []))


@pytest.fixture
def creates_file():
    return CreatesFile


@pytest.fixture
def evil(tmp_path):
    """A checkpoint that creates a file when it is unpickled; and that file."""
    file, mark = tmp_path / 'evil.pth', tmp_path / 'code_ran'
    weights = torch.nn.ModuleDict({'fc': torch.nn.Linear(4, 2)}).state_dict()
    torch.save({'state_dict': weights, 'meta': CreatesFile(str(mark), io.open)}, file)
    return str(file), mark


@pytest.fixture
def assert_refused():
    """``assert_refused(error, file, offender)``: the error names these and the ways out. ``evil`` calls the default."""

    # Python 3.13 pickles it as _io.open, earlier ones as io.open.
    def check(error, file, offender=f'{io.open.__module__}.open'):
        text = str(error.value)
        assert file in text and f'it needs {offender}.' in text
        assert 'trust_checkpoints' in text and 'torch.save' in text

    return check
