"""The compiled kernels: which file fits this CPU, and how a kernel runs in PyTorch's own threads."""

import ctypes
import os

import torch

from .compile import LIBRARIES, NOT_BUILT, library_name
from .structs import Call, Job, Sample, Scan

TOKENS = 16  # of a block, as in csrc/scan.h
#: The states of a vector of channels lie on the stack of a thread.
MAX_STATES = 256
#: capability as PyTorch names it -> instruction sets whose kernels run there, the best first, with their lanes V
LEVELS = {'AVX512': {'avx512': 16, 'avx2': 8}, 'AVX2': {'avx2': 8}, 'DEFAULT': {'neon': 4}, 'SVE256': {'neon': 4}}
_forked = False


def _remember_fork():
    global _forked
    _forked = True


# A forked child has none of its parent's threads, and the OpenMP runtime waits for them for ever.
os.register_at_fork(after_in_child=_remember_fork)


class Library:
    """The kernels of one file.

    Args:
        path: the shared library.
        lanes: channels of a vector of its instruction set.

    Raises:
        OSError: the file cannot be loaded, or was compiled from other sources than this package.
    """

    def __init__(self, path, lanes):
        self.lanes = lanes
        self._library = ctypes.CDLL(str(path))
        self._work = ctypes.cast(self._library.work, ctypes.c_void_p).value
        # The OpenMP runtime that PyTorch has loaded: GNU's, or LLVM's, which answers to this name as well.
        self._parallel = ctypes.CDLL(None).GOMP_parallel
        self._parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._parallel.restype = None
        sizes = (ctypes.c_int64 * 5).in_dll(self._library, 'layout_of_this_library')
        expected = [lanes, *(ctypes.sizeof(struct) for struct in (Scan, Call, Sample, Job))]
        if list(sizes) != expected:
            raise OSError(f'{path} was compiled from other sources: its layout is {list(sizes)}, expected {expected}')

    def run(self, kernel, call, tasks):
        """Run a kernel for each task number below ``tasks``, in as many threads as PyTorch uses.

        Args:
            kernel: name of the C function.
            call: the struct that it reads. The caller keeps the tensors alive whose addresses are in it.
            tasks: number of tasks.
        """
        function = ctypes.cast(getattr(self._library, kernel), ctypes.c_void_p)
        job = Job(function, ctypes.addressof(call), tasks, 0)
        self._parallel(self._work, ctypes.addressof(job), min(threads(), tasks), 0)


def threads():
    """Return the number of threads of a kernel: torch.get_num_threads(), but one in a forked process."""
    return 1 if _forked else torch.get_num_threads()


def find():
    """Return (library, None), or (None, the reason why no kernels can run here)."""
    capability = torch.backends.cpu.get_cpu_capability()
    for level, lanes in LEVELS.get(capability, {}).items():
        path = LIBRARIES / library_name(level)
        if not path.exists():
            continue
        try:
            return Library(path, lanes), None
        except (OSError, AttributeError, ValueError) as error:  # no such symbol: AttributeError or ValueError
            return None, f'{path.name} cannot be loaded: {error}'
    if capability not in LEVELS:
        return None, f'there are no kernels for a CPU with the capability {capability}'
    if (LIBRARIES / NOT_BUILT).exists():
        return None, f'the kernels were not built: {(LIBRARIES / NOT_BUILT).read_text("utf-8").strip()}'
    return None, f'no kernels for {capability} were built; docs/install.md says how'


#: The kernels, or None and the reason. Looked up once, at import: torch.compile cannot trace how a library is loaded.
LIBRARY, REASON = find()


def padded_states(states):
    """Return the number of states with the padding that the kernels want, csrc/scan.h."""
    at_once = LIBRARY.lanes // 2
    return -(-states // at_once) * at_once


def states_shape(scanned, states):
    """Return the shape of the states that the backward starts from: before each block of tokens.

    Args:
        scanned: (B, K, L, C).
        states: N.
    """
    batch, scans, length, channels = scanned
    lanes = LIBRARY.lanes
    return scans, batch, -(-channels // lanes), -(-length // TOKENS), padded_states(states), lanes


def unavailable_reason(u, states=1):
    """Return why the kernels cannot scan tensors like ``u`` with that many states, or None if they can."""
    if u.device.type != 'cpu':
        return f'it needs CPU tensors, these are on {u.device.type}'
    if u.dtype == torch.float64:
        return 'it computes in float32, these are float64'
    if states > MAX_STATES:
        return f'it takes at most {MAX_STATES} states, got {states}'
    return REASON
