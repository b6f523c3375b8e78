#!/usr/bin/env bash
# Run the tests of the C kernels with GCC's sanitizers for addresses and undefined behaviour. They end at the first
# read or write outside of a tensor. It needs GCC 12 or newer and takes some minutes:
#
#   PYTHON=.venv/bin/python tests/sanitize_kernels.sh [arguments of pytest]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r mmdefmamba tests pyproject.toml "$copy"
cd "$copy"
rm -rf mmdefmamba/ops/native/lib
"$python" - <<'BUILD'
import runpy
import subprocess

build = runpy.run_path('mmdefmamba/ops/native/compile.py')
machines = {'avx512': 'x86-64-v4', 'avx2': 'x86-64-v3', 'neon': 'armv8-a'}
build['LIBRARIES'].mkdir()
for level in build['levels_of_this_machine']():
    lanes = [flag for flag in build['LEVELS'][level][1] if flag.startswith('-DV=')]
    flags = ['-std=gnu11', '-O1', '-g', '-shared', '-fPIC', '-Wno-psabi', '-ffp-contract=fast', '-fno-math-errno']
    sanitizers = ['-fsanitize=address,undefined', '-fno-sanitize-recover=all', '-fno-omit-frame-pointer']
    out = build['LIBRARIES'] / build['library_name'](level)
    sources = build['HERE'].glob('csrc/*.c')
    subprocess.run(
        ['gcc', *flags, *sanitizers, f'-march={machines[level]}', *lanes, *map(str, sources), '-o', str(out)], check=True
    )
BUILD
export LD_PRELOAD="$(gcc -print-file-name=libasan.so):$(gcc -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=2  # what Python keeps until its end is no leak
exec "$python" -m pytest -q -p no:cacheprovider tests/test_ops/test_native.py \
  -k 'not compiles and not forked and not imported_first' "$@"
