"""The emulator as a driver of Triton: Triton compiles and launches as on a GPU of compute capability 9.0.

Triton's last stage, from PTX to machine code, is left out. It takes most of the time, and what it needs is not used.
"""

import contextlib
import struct
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver as triton_driver

from .allocations import Allocations, bytes_of
from .instructions import prepare
from .lanes import Lanes
from .memory import Memory
from .parser import parse

CAPABILITY = 90
SHARED_BYTES = 232448  # of an H100
FIRST_ADDRESS = 1 << 36
ALIGNMENT = 512  # of memory that PyTorch allocates on a GPU
GAP = 4096  # between tensors: an overrun must not reach the next one
FLOATS = {'fp16': '<e', 'fp32': '<f', 'fp64': '<d'}


@dataclass
class Launch:
    """What is known of a launch."""

    kernel: str
    grid: tuple
    steps: int
    unwritten: dict  # name of an argument that the kernel wrote to -> number of elements that nobody has written
    rounding: float  # largest relative difference of a sum that several lanes compute and write to one place


class EmulatedDriver:
    """A driver of Triton that runs compiled kernels on tensors of the CPU.

    ``launches`` has a :class:`Launch` per launch. ``edit`` may change the PTX of a kernel, to plant a fault.
    """

    def __init__(self):
        self.allocations = Allocations()
        self.launches = []
        self.edit = None
        self.utils = SimpleNamespace(
            load_binary=lambda name, binary, *_: (name, binary.decode(), 0, 0, 1024),
            unload_module=lambda module: None,
            get_device_properties=lambda device: dict(max_shared_mem=SHARED_BYTES, multiprocessor_count=132),
        )
        self._programs = {}

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget('cuda', CAPABILITY, 32)

    def get_active_torch_device(self):
        return torch.device('cpu')

    def launcher_cls(self, source, metadata):
        """Return what Triton calls to launch a kernel that it has compiled."""

        def launch(x, y, z, stream, ptx, packed, of_launch, enter, leave, *arguments):
            named = zip(source.signature.items(), arguments, strict=True)
            taken = [(name, kind, value) for (name, kind), value in named if kind != 'constexpr']
            self._run(metadata, ptx, (x, y, z), taken)

        return launch

    def _program(self, ptx):
        if self.edit:
            return prepare(parse(self.edit(ptx)))
        if ptx not in self._programs:
            self._programs[ptx] = prepare(parse(ptx))
        return self._programs[ptx]

    def _run(self, metadata, ptx, grid, arguments):
        program = self._program(ptx)
        tensors = [(name, value) for name, _, value in arguments if isinstance(value, torch.Tensor)]
        owners, placed = self._place(tensors)
        values = []
        for _, kind, value in arguments:
            if isinstance(value, torch.Tensor):
                start = placed[value.untyped_storage().data_ptr()]
                value = FIRST_ADDRESS + start + value.storage_offset() * value.element_size()
            values.append((kind, value))
        parameters = bytearray(program.parameter_bytes)
        # the last two parameters are for kernels that ask for scratch memory or a profile: addresses of nothing
        values += [('*i8', 0)] * (len(program.parameters) - len(values))
        for (offset, size), (kind, value) in zip(program.parameters.values(), values, strict=True):
            if kind in FLOATS:
                raw = struct.pack(FLOATS[kind], value)
            else:
                raw = (int(value) % 2 ** (8 * size)).to_bytes(size, 'little')
            parameters[offset : offset + len(raw)] = raw

        def memory(order):
            return self._memory(order, owners, placed, tensors)

        lanes = Lanes(program, grid, metadata.num_warps, memory, bytes(parameters), metadata.shared)
        lanes.run()
        self._take_back(lanes.memory['global'], owners, placed)
        unwritten = {}
        for name, tensor in tensors:
            start = placed[tensor.untyped_storage().data_ptr()]
            if lanes.memory['global'].stored[start : start + tensor.untyped_storage().nbytes()].any():
                missing = self.unwritten(tensor)
                if missing:
                    unwritten[name] = missing
        self.launches.append(Launch(program.name, grid, lanes.steps, unwritten, lanes.memory['shared'].rounding))

    @staticmethod
    def _place(tensors):
        """Return {address of a storage: a tensor of it} and {address of a storage: place in the emulated memory}."""
        owners = {tensor.untyped_storage().data_ptr(): tensor for _, tensor in tensors if tensor.numel()}
        placed, end = {}, GAP
        for address, tensor in owners.items():
            placed[address] = end
            end += -(-(tensor.untyped_storage().nbytes() + GAP) // ALIGNMENT) * ALIGNMENT
        for _, tensor in tensors:
            placed.setdefault(tensor.untyped_storage().data_ptr(), end)
        return owners, placed

    def _memory(self, order, owners, placed, tensors):
        size = max(placed.values(), default=0) + GAP
        size += max((tensor.untyped_storage().nbytes() for tensor in owners.values()), default=0)
        memory = Memory('global', size, order, address=FIRST_ADDRESS)
        for address, tensor in owners.items():
            start, content = placed[address], bytes_of(tensor)
            memory.data[start : start + len(content)] = content
            memory.written[start : start + len(content)] = self.allocations.written(tensor)
        for name, tensor in tensors:
            if tensor.numel():
                start = placed[tensor.untyped_storage().data_ptr()]
                # only the elements of the tensor: what lies between them may belong to other tensors
                content = memory.exists[start : start + tensor.untyped_storage().nbytes()]
                elements_of(tensor, content)[...] = True
                first = start + tensor.storage_offset() * tensor.element_size()
                extent = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
                memory.segments.append((first, first + extent * tensor.element_size(), name))
        return memory

    def _take_back(self, memory, owners, placed):
        for address, tensor in owners.items():
            content = bytes_of(tensor)
            part = slice(placed[address], placed[address] + len(content))
            stored = memory.stored[part]
            content[stored] = memory.data[part][stored]
            self.allocations.written(tensor)[stored] = True

    def unwritten(self, tensor):
        """Return how many elements of a tensor nobody has written since it was made by ``torch.empty``."""
        return int((~elements_of(tensor, self.allocations.written(tensor)).all(-1)).sum())


def elements_of(tensor, content):
    """Return the bytes of the elements of a tensor, (*shape, element size), as a view of those of its storage."""
    size = tensor.element_size()
    begin = tensor.storage_offset() * size
    strides = [stride * size for stride in tensor.stride()]
    return np.lib.stride_tricks.as_strided(content[begin:], (*tensor.shape, size), (*strides, 1))


def _without_machine_code(*stage):
    """Triton's hook for the stages of a compilation; without arguments it asks for a key of its cache."""
    if not stage:
        return 'ptx emulator', 'ptx emulator'
    stages = stage[1]
    stages['cubin'] = lambda ptx, metadata: ptx.encode()
    return None


@contextlib.contextmanager
def emulated():
    """Let Triton launch its kernels in the emulator within the block; yield the :class:`EmulatedDriver`.

    Raises:
        RuntimeError: Triton interprets kernels in this process (TRITON_INTERPRET=1), so it does not compile any.
    """
    if knobs.runtime.interpret:
        raise RuntimeError('the emulator needs compiled kernels: start the process with TRITON_INTERPRET=0')
    emulator = EmulatedDriver()
    before = triton_driver._active, knobs.runtime.add_stages_inspection_hook
    triton_driver.set_active(emulator)
    knobs.runtime.add_stages_inspection_hook = _without_machine_code
    try:
        with emulator.allocations.watched():
            yield emulator
    finally:
        triton_driver._active, knobs.runtime.add_stages_inspection_hook = before
