"""Options of the launches that change the speed of the kernels and not what they compute.

They are gathered here so that a benchmark can try others without editing a kernel. No GPU has decided between them yet:
the defaults follow from counted instructions and registers (docs/benchmarks.md).
"""

import contextlib
import dataclasses

import torch

CHANNEL_BLOCKS = (16, 32)


@dataclasses.dataclass(frozen=True)
class ScanOptions:
    """How the scan kernels are launched.

    Attributes:
        forward_block, backward_block: channels of one program, which is one warp for up to 16 states: 16 or 32. With 16
            there are twice as many programs, each with a little more than half of the instructions.
        forward_registers, backward_registers: the most registers of a thread, 24 to 255, or None for as many as the
            compiler wants. Fewer registers let more programs run on a multiprocessor, and may spill values to memory.
            None on AMD GPUs, whose compiler has no such option.
        float32_carry: whether the forward kernel converts the tile of tokens that it reads ahead to float32 at once, or
            when it is used. At once takes a fifth less instructions with Triton 3.6, since converted values are what
            passes through shared memory.
        programs_per_multiprocessor: a sequence is cut into chunks where fewer programs than half of this number run on
            each multiprocessor.
        min_chunk: the least number of tokens of such a chunk, a multiple of 64.
        chunks: number of chunks of each sequence, or 0 to choose it by the two numbers above. Chunks are multiples of
            64 tokens, so there may be fewer.
        backward_blocks: channel blocks that one program of the backward processes, one after the other, or 0: as many
            as leave ``programs_per_multiprocessor`` programs for each multiprocessor.
        largest_rank: the largest rank of a time step that the scans project themselves, 0 to 16. A larger one is a
            matrix product before the scan, whose result is written to memory and read again.

    Raises:
        ValueError: an option is not among those above.
    """

    forward_block: int = 32
    backward_block: int = 32
    forward_registers: int | None = None
    # 9 instead of 8 programs fit on a multiprocessor of an H100. At batch 128 the programs of stage 1 then need one
    # round less, for 3 % more instructions.
    backward_registers: int | None = None if torch.version.hip else 224
    float32_carry: bool = True
    # One warp alone keeps about a quarter of its share of the special function units busy.
    programs_per_multiprocessor: int = 8
    min_chunk: int = 256
    chunks: int = 0
    backward_blocks: int = 0
    # The weights of a lane's channel lie in registers, one per number of the rank. Stages 1 and 2 have ranks of 6 and
    # 12 in tiny and small, of 8 and 16 in base.
    largest_rank: int = 16

    def __post_init__(self):
        def require(name, fits, wanted):
            value = getattr(self, name)
            if isinstance(value, bool) != (name == 'float32_carry') or not fits(value):
                raise ValueError(f'{name} must be {wanted}, got {value!r}')

        def whole(low, high, step=1):
            return lambda value: isinstance(value, int) and low <= value <= high and value % step == 0

        for name in ('forward_block', 'backward_block'):
            require(name, lambda value: value in CHANNEL_BLOCKS, f'one of {CHANNEL_BLOCKS}')
        for name in ('forward_registers', 'backward_registers'):
            require(name, lambda value: value is None or whole(24, 255)(value), 'None or from 24 to 255')
        require('float32_carry', lambda value: True, 'True or False')
        require('programs_per_multiprocessor', whole(1, 1024), 'from 1 to 1024')
        require('min_chunk', whole(64, 2**30, 64), 'a multiple of 64')
        require('chunks', whole(0, 65536), '0 or the number of chunks, up to 65536')
        require('backward_blocks', whole(0, 65536), '0 or the number of blocks, up to 65536')
        require('largest_rank', whole(0, 16), 'from 0 to 16')


_current = ScanOptions()


def scan_options():
    """Return the :class:`ScanOptions` with which kernels are launched now."""
    return _current


@contextlib.contextmanager
def use_scan_options(**options):
    """Launch the scan kernels within the block with other options. It is not thread-safe.

    Options are read when a kernel is launched: a compiled network follows them, a captured CUDA graph does not. A
    backward that should run with them must run within the block, too.

    Args:
        **options: see :class:`ScanOptions`. What is not given stays as it is.

    Raises:
        ValueError: there is no such option, or its value is not possible.
    """
    global _current
    known = [field.name for field in dataclasses.fields(ScanOptions)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f'there are no options {unknown}: the options are {known}')
    before, _current = _current, dataclasses.replace(_current, **options)
    try:
        yield _current
    finally:
        _current = before
