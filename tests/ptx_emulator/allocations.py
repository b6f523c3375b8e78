"""Which memory of tensors was written. New empty tensors hold a pattern, so that reading them does not go unnoticed."""

import contextlib

import torch

#: NaN in each floating point type; no index of anything as an integer
PATTERN = (0xA5, 0xFF)
EMPTY = [
    (torch, 'empty'),
    (torch, 'empty_like'),
    (torch, 'empty_strided'),
    (torch.Tensor, 'new_empty'),
    (torch.Tensor, 'new_empty_strided'),
]


def bytes_of(tensor):
    """Return the whole memory behind a tensor as a numpy array of bytes that shares it."""
    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy()


class Allocations:
    """Empty tensors, and which of their bytes kernels have written.

    Other operations of PyTorch write into them, too. That shows where a byte no longer holds the pattern.
    """

    def __init__(self):
        self._of_storage = {}  # address -> (a tensor, which keeps the memory alive; written bytes)

    @contextlib.contextmanager
    def watched(self):
        """Fill empty tensors on the CPU with the pattern, within the block."""
        originals = [(owner, name, getattr(owner, name)) for owner, name in EMPTY]
        try:
            for owner, name, function in originals:
                setattr(owner, name, self._filling(function))
            yield self
        finally:
            for owner, name, function in originals:
                setattr(owner, name, function)

    def _filling(self, function):
        def empty(*args, **kwargs):
            tensor = function(*args, **kwargs)
            if type(tensor) is torch.Tensor and tensor.device.type == 'cpu' and tensor.element_size() > 1:
                self._add(tensor)
            return tensor

        return empty

    def _add(self, tensor):
        address = tensor.untyped_storage().data_ptr()
        if address:
            content = bytes_of(tensor)
            content[0::2], content[1::2] = PATTERN
            self._of_storage[address] = (tensor.detach(), content != content)

    def written(self, tensor):
        """Return which bytes of the memory behind a tensor were written, an array of bool that kernels may change."""
        content = bytes_of(tensor)
        found = self._of_storage.get(tensor.untyped_storage().data_ptr())
        if found is None or found[1].shape != content.shape:
            return content == content
        written = found[1]
        changed = (content[0::2] != PATTERN[0]) | (content[1::2] != PATTERN[1])
        written[0::2] |= changed
        written[1::2] |= changed
        return written

    def forget(self):
        self._of_storage.clear()
