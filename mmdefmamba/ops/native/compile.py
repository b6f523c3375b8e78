"""Compile the kernels of ``csrc/`` with the C compiler of the wheel ``ziglang``. setup.py calls this at installation.

This file imports the standard library only: it runs where PyTorch is not installed. By hand, from a clone::

    pip install ziglang
    python mmdefmamba/ops/native/compile.py
"""

import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
#: Where the compiled kernels are, in an installed package too. Not beside the modules: Python would take them for some.
LIBRARIES = HERE / 'lib'
#: instruction set -> (machine, compiler flags); a file is compiled for each instruction set of the machine
LEVELS = {
    'avx512': ('x86_64', ['-mcpu=x86_64_v4', '-DV=16']),
    'avx2': ('x86_64', ['-mcpu=x86_64_v3', '-DV=8']),
    'neon': ('aarch64', ['-mcpu=generic', '-DV=4']),
}
FLAGS = [
    '-std=c11',
    '-O3',
    '-fno-math-errno',
    '-fno-trapping-math',
    '-ffp-contract=fast',
    '-Wall',
    '-Wextra',
    '-Werror',
]
LIBRARY_FLAGS = ['-shared', '-fPIC', '-s']
# glibc of 2012, so that the files load on every Linux that PyTorch supports
TARGET = '{machine}-linux-gnu.2.17'
#: Says why the kernels were not built, beside where they would be.
NOT_BUILT = 'not_built.txt'


def library_name(level):
    return f'kernels_{level}.so'


def levels_of_this_machine():
    """Return the instruction sets that kernels can be compiled for on this machine, none outside of Linux."""
    if sys.platform != 'linux':
        return []
    return [level for level, (machine, _) in LEVELS.items() if machine == platform.machine()]


def compile_level(level, out, flags=FLAGS + LIBRARY_FLAGS):
    """Compile the kernels for one instruction set into the file ``out``.

    Raises:
        RuntimeError: the compiler is not installed, or it fails; the message holds what it printed.
    """
    if importlib.util.find_spec('ziglang') is None:
        raise RuntimeError('the C compiler is not installed: pip install ziglang')
    machine, level_flags = LEVELS[level]
    sources = sorted(map(str, (HERE / 'csrc').glob('*.c')))
    target = TARGET.format(machine=machine)
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, '-m', 'ziglang', 'cc', *flags, *level_flags, '-target', target, *sources]
        environment = {**os.environ, 'ZIG_GLOBAL_CACHE_DIR': cache, 'ZIG_LOCAL_CACHE_DIR': cache}
        done = subprocess.run([*command, '-o', str(out)], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f'the C compiler failed for {level}: {done.stderr.strip()}')


def compile_all(folder):
    """Compile the kernels for every instruction set of this machine into a folder; return the files.

    A failure leaves the reason there in ``NOT_BUILT``, which the package logs when it takes another backend.

    Raises:
        RuntimeError: see :func:`compile_level`, or there are no kernels for this machine.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in (folder / NOT_BUILT, *(folder / library_name(level) for level in LEVELS)):
        old.unlink(missing_ok=True)
    try:
        levels = levels_of_this_machine()
        if not levels:
            raise RuntimeError(f'there are no kernels for {platform.machine()} on {sys.platform}')
        files = [folder / library_name(level) for level in levels]
        for level, file in zip(levels, files, strict=True):
            compile_level(level, file)
    except RuntimeError as error:
        (folder / NOT_BUILT).write_text(f'{error}\n', 'utf-8')
        raise
    return files


if __name__ == '__main__':
    for path in compile_all(LIBRARIES):
        print(path)
