"""An emulator for compiled Triton kernels: it runs their PTX on the CPU and reports what a GPU would not forgive.

Triton's interpreter runs the source of a kernel, an array operation at a time. It cannot see what the compiler makes of
it: which lane holds what, which lanes exchange numbers through shared memory, where barriers stand. The emulator runs
what the compiler has made, lane by lane, and checks each access:

- reads and writes beyond the elements of the tensors, and misaligned ones;
- reads of memory that was never written, and results that were left unwritten;
- races: two lanes use one place, one of them writes, and they have not met at a barrier in between;
- lanes that wait for each other for ever, and exchanges with lanes that do not take part.

Approximate functions of the GPU (exponential, division) give results that are off by as much as PTX allows. Timing is
not emulated, nor are machine code, caches and several streams.

`TRITON_INTERPRET=0 python -m pytest -m ptx` runs the tests with the marker `ptx` in the emulator. Any other test that
runs Triton kernels on tensors of the CPU can run in it, too: `TRITON_INTERPRET=0 python -m pytest tests/test_ops/...`.

    parser        PTX text -> instructions with their source lines
    operands      readers of registers, constants and addresses
    arithmetic    instructions on registers
    exchange      instructions on memory, and exchanges within a warp
    matrices      instructions of a warp on small matrices
    control       branches, ends, barriers
    lanes         all lanes of a launch, in step
    memory        bytes that know who wrote and read them
    allocations   which bytes of PyTorch's tensors were written
    driver        the emulator in the place of Triton's driver
    plant         faults for tests of the emulator itself
"""

from .faults import Fault, UnknownInstructionError

__all__ = ['Fault', 'UnknownInstructionError']
