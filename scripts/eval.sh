#!/usr/bin/env bash
# Scores a model and prints the report. Without arguments: the shipped model on the held-out synthetic world (minutes).
# Sets up .venv. `bash scripts/eval.sh --help` lists the options.
#
#   bash scripts/eval.sh --model_path ckpt/Flash-VStream-7b actnet msvd realtime_vsego4d
#
# Runs on all GPUs of this machine; GPUS=2 takes fewer. For several machines, start it on each with NNODES, NODE_RANK,
# MASTER_ADDR and MASTER_PORT set; they share --output_dir and --data_root. Run it again after a kill: it resumes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" eval
exec python -m flash_vstream eval "$@"
