#!/usr/bin/env bash
# Scores a model and prints the report; without arguments the shipped model on the held-out synthetic world (minutes).
#
#   bash scripts/eval.sh --model_path ckpt/Flash-VStream-7b actnet msvd realtime_vsego4d
#
# runs on all GPUs of this machine; GPUS=2 takes fewer. For several machines start it on each with
# NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT set; they share one --output_dir and --data_root.
# Run it again after a kill and it goes on. Sets up .venv by itself. `bash scripts/eval.sh --help` lists the options.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" eval
export TOKENIZERS_PARALLELISM=false
gpus=${GPUS:-$(python -c 'import torch; print(torch.cuda.device_count())')}
processes=$((gpus > 0 ? gpus : 1))
if [ "${NNODES:-1}" -gt 1 ]; then
  if [ -z "${MASTER_ADDR:-}" ] || [ -z "${NODE_RANK:-}" ]; then
    echo "error: NNODES is $NNODES: set MASTER_ADDR to the first machine and NODE_RANK, 0 on that machine" >&2
    exit 2
  fi
  exec torchrun --nproc_per_node "$processes" --nnodes "$NNODES" --node_rank "$NODE_RANK" \
    --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}" -m flash_vstream.eval "$@"
elif [ "$processes" -gt 1 ]; then
  exec torchrun --standalone --nproc_per_node "$processes" -m flash_vstream.eval "$@"
fi
exec python -m flash_vstream.eval "$@"
