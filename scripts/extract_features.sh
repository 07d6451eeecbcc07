#!/usr/bin/env bash
# Encodes images and videos to feature files. Sets up .venv. `bash scripts/extract_features.sh --help` lists the options.
#
#   bash scripts/extract_features.sh --vision_tower ckpt/clip-vit-large-patch14 --input data/pretrain/videos \
#       --output data/pretrain/video_features --pooled
#
# Runs on all GPUs of this machine; GPUS=2 takes fewer, and without a GPU GPUS=2 starts two processes. For several
# machines, start it on each with NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT set; they share the folders. Run it
# again after a kill: it resumes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
exec python -m flash_vstream extract "$@"
