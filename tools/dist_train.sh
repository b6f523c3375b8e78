#!/usr/bin/env bash
# Train in several processes: one a GPU, or on a CPU over gloo.
# For several machines set NNODES, NODE_RANK, MASTER_ADDR and PORT; PYTHON names another interpreter.
# MMDEFMAMBA_START_TIMEOUT: seconds within which all machines must appear, 300 by default.
# MAX_RESTARTS=3 starts the processes again, from the last checkpoint, up to so many times after one was lost.
set -euo pipefail
if (($# < 2)); then
    echo "usage: $0 CONFIG PROCESSES [options of train.py]" >&2
    exit 2
fi

exec "${PYTHON:-python}" -m mmdefmamba.cli.torchrun \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$2" \
    --max_restarts="${MAX_RESTARTS:-0}" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
