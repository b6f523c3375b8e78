"""Compile the kernels of ``csrc/`` with the C compiler of the wheel ``ziglang``. setup.py calls this at installation.

This file imports the standard library only: it runs where PyTorch is not installed. By hand, from a clone::

    pip install ziglang
    python mmdefmamba/ops/native/compile.py
"""

import hashlib
import importlib.metadata
import importlib.util
import json
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
GLIBC = '2.17'
TARGET = f'{{machine}}-linux-gnu.{GLIBC}'
#: Says why the kernels were not built, beside where they would be.
NOT_BUILT = 'not_built.txt'
#: Says what the kernels were built from, beside them; see :func:`up_to_date`.
BUILT_FROM = 'built_from.json'


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

    ``BUILT_FROM`` beside them says from what. A failure leaves the reason in ``NOT_BUILT`` instead, which the package
    logs when it takes another backend.

    Raises:
        RuntimeError: see :func:`compile_level`, or there are no kernels for this machine.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in (NOT_BUILT, BUILT_FROM, *map(library_name, LEVELS)):
        (folder / old).unlink(missing_ok=True)
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
    (folder / BUILT_FROM).write_text(json.dumps(_origin(files), indent=1) + '\n', 'utf-8')
    return files


def up_to_date(folder):
    """Return whether a folder has the kernels of this machine, as compiled from the present sources.

    The sources, the flags, the compiler (where it is installed) and the kernels themselves must be those that
    ``BUILT_FROM`` names.
    """
    record = Path(folder) / BUILT_FROM
    files = [Path(folder, library_name(level)) for level in levels_of_this_machine()]
    if not files or not all(file.is_file() for file in (record, *files)):
        return False
    saved, present = json.loads(record.read_text('utf-8')), _origin(files)
    if present['compiler'] is None:
        present['compiler'] = saved.get('compiler')
    return saved == present


def _origin(files):
    sources = hashlib.sha256(repr((FLAGS, LIBRARY_FLAGS, LEVELS, TARGET)).encode())
    for source in sorted((HERE / 'csrc').iterdir()):
        sources.update(source.name.encode() + b'\n' + source.read_bytes())
    compiler = importlib.metadata.version('ziglang') if importlib.util.find_spec('ziglang') else None
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return {'sources': sources.hexdigest(), 'compiler': compiler, 'kernels': digests}


if __name__ == '__main__':
    for path in compile_all(LIBRARIES):
        print(path)
