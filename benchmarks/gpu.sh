#!/usr/bin/env bash
# Everything that needs a GPU to be decided. It first compares each GPU path with the reference, and then prints the
# benchmark tables. Each table is also written as a CSV file and a plot.
# Each call runs one part, which takes less than nine minutes on an H100:
#   bash benchmarks/gpu.sh checks       the tests that are marked gpu
#   bash benchmarks/gpu.sh scan         the scan alone: all backends, short and long sequences
#   bash benchmarks/gpu.sh backbone     images/s: backends, modes, architectures, and torchvision's networks
#   bash benchmarks/gpu.sh tasks        image sizes; Mask R-CNN and UperNet with Swin-T for comparison
#   bash benchmarks/gpu.sh kernel       build mamba-ssm's kernel, if nvcc is installed; run it first
#   bash benchmarks/gpu.sh              checks, scan, backbone and tasks, one after another
# PYTHON=python names the interpreter. OUT=work_dirs/benchmarks names the folder for CSV files and plots.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
OUT=${OUT:-work_dirs/benchmarks}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
NINE_MINUTES=540

"$PYTHON" -c 'import torch; assert torch.cuda.is_available(), "gpu.sh needs a CUDA device, but PyTorch finds none"'

bench() {
    timeout "$NINE_MINUTES" "$PYTHON" "benchmarks/$1.py" --out "$OUT" --dtype bfloat16 "${@:2}"
}

checks() {
    timeout "$NINE_MINUTES" "$PYTHON" -m pytest -q -m gpu tests
    timeout "$NINE_MINUTES" "$PYTHON" -m pytest -q tests/test_ops/test_triton_scan.py -m 'not gpu'
}

scan() {
    bench selective_scan --dtype float32 --no-loops
    bench selective_scan --shape 128 3 96 16 3136 --no-loops --lengths
    bench selective_scan --shape 128 3 768 16 49 --no-loops --lengths
    bench selective_scan --shape 2 3 96 16 66800 --no-loops --lengths 4096 65536
}

backbone() {
    local against='small small:mamba_ssm small:triton swin_t convnext_t'
    # shellcheck disable=SC2086
    bench backbone --networks $against --modes eager compile graph --batch 128
    # shellcheck disable=SC2086
    bench backbone --networks $against --modes eager compile --batch 128 --training
    bench backbone --networks tiny:triton base:triton --modes eager graph --batch 128 --out "$OUT/tiny_base"
    bench backbone --networks tiny:triton base:triton --modes eager --batch 128 --training --out "$OUT/tiny_base"
}

tasks() {
    bench resolution --networks small swin_t
    bench resolution --networks small swin_t --training --sizes 224 448 896 1280
    bench detectors --backbones swin_t small small:triton
}

kernel() {
    command -v nvcc > /dev/null || { echo 'nvcc is not installed: mamba-ssm is left out of the comparison'; return 0; }
    "$PYTHON" -m pip install setuptools wheel packaging ninja
    MAMBA_KEEP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE timeout "$NINE_MINUTES" \
        "$PYTHON" -m pip install --no-build-isolation --no-deps mamba-ssm
    "$PYTHON" -c 'import torch, selective_scan_cuda'
}

for part in "${@:-all}"; do
    case $part in
        all) checks; scan; backbone; tasks ;;
        checks | scan | backbone | tasks | kernel) "$part" ;;
        *) echo "unknown part: $part; the parts are checks, scan, backbone, tasks and kernel" >&2; exit 2 ;;
    esac
done
