#!/usr/bin/env bash
# Everything that a GPU has to decide, in two commands of less than nine minutes each:
#   bash benchmarks/gpu.sh          tests, the options of the scan, single operators, a profile, images per second
#   bash benchmarks/gpu.sh more     torch.compile, detectors and segmentors, memory, mamba-ssm's kernel if it is built
# Both print their tables last and leave one archive, gpu_results.tar.gz. They end with 0 if the tests pass and every part
# ends, with 1 if a test fails, and with 3 if the tests pass and another part fails or runs out of its time.
#   --parts scan networks           only these parts
#   --wheels FOLDER                 install the wheels of `make gpu-wheels` for these runs; by default `wheels`, if it exists
#   --out FILE                      the archive
#   --rehearse                      on any machine without a GPU: tiny sizes and invented times
# PYTHON names the interpreter, by default python3 or python.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    PYTHON=$(command -v python3 || command -v python) || { echo 'gpu.sh finds neither python3 nor python: set PYTHON' >&2; exit 2; }
fi
exec "$PYTHON" -u benchmarks/gpu_run.py "$@"
