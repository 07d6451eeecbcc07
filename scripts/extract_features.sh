#!/usr/bin/env bash
# Images and videos to feature files; sets up .venv by itself. `bash scripts/extract_features.sh --help` lists the options.
#
#   bash scripts/extract_features.sh --vision_tower ckpt/clip-vit-large-patch14 --input data/pretrain/videos \
#       --output data/pretrain/video_features --pooled
#
# One process for each GPU of this machine (NPROC names another number; on a CPU, 1). Several machines that share the
# folders: NNODES=2 NODE_RANK=0 MASTER_ADDR=first-machine on the first, NODE_RANK=1 on the second. Run it again after
# any interruption: it goes on where it was.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
for argument in "$@"; do
  case "$argument" in -h | --help) exec python -m flash_vstream.features.extract --help ;; esac
done
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)
processes=${NPROC:-$((gpus > 0 ? gpus : 1))}
nodes=${NNODES:-1}
if [ "$processes" = 1 ] && [ "$nodes" = 1 ]; then
  exec python -m flash_vstream.features.extract "$@"
fi
if [ "$nodes" = 1 ]; then
  exec torchrun --standalone --nproc_per_node "$processes" -m flash_vstream.features.extract "$@"
fi
if [ -z "${MASTER_ADDR:-}" ] || [ -z "${NODE_RANK:-}" ]; then
  echo "error: NNODES is $nodes: set MASTER_ADDR to the first machine and NODE_RANK, 0 on that machine" >&2
  exit 2
fi
exec torchrun --nnodes "$nodes" --node_rank "$NODE_RANK" --nproc_per_node "$processes" \
  --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}" -m flash_vstream.features.extract "$@"
