#!/usr/bin/env bash
# Test in several processes: one a GPU, or on a CPU over gloo.
# For several machines set NNODES, NODE_RANK, MASTER_ADDR and PORT; PYTHON names another interpreter.
# MMDEFMAMBA_START_TIMEOUT: seconds within which all machines must appear, 300 by default.
set -euo pipefail
if (($# < 3)); then
    echo "usage: $0 CONFIG CHECKPOINT PROCESSES [options of test.py]" >&2
    exit 2
fi

exec "${PYTHON:-python}" -m mmdefmamba.cli.torchrun \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$3" \
    "$(dirname "$0")/test.py" "$1" "$2" --launcher pytorch "${@:4}"
