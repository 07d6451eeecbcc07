#!/usr/bin/env bash
# Trains a model in two stages and scores it. Sets up .venv. Run it again after a kill: it resumes.
#
#   bash scripts/train_and_eval.sh                      the tiny model on the synthetic world, from nothing, on one GPU
#                                                       or none (about an hour on 2 cores with AVX-512)
#   bash scripts/train_and_eval.sh synthetic --smoke    the same steps on very little data, in some minutes
#   bash scripts/train_and_eval.sh 7b                   the real recipe, scripts/recipe_7b.yaml, on all GPUs of this
#                                                       machine (GPUS=2 takes fewer); --check only names what is missing
#   bash scripts/train_and_eval.sh FILE.yaml            your own recipe, on the same GPUs
#
# Several machines: docs/training.md.
set -euo pipefail
recipe=${1:-synthetic}
shift || true
case "$recipe" in
  -h | --help)
    sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | sed '$d'
    exit
    ;;
  /*) ;;
  *.yaml | *.yml) recipe=$PWD/$recipe ;; # relative to the caller; paths in the file are relative to the repository
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh train,eval
case "$recipe" in
  synthetic)
    gpus=${CUDA_VISIBLE_DEVICES-0}
    export CUDA_VISIBLE_DEVICES=${gpus%%,*} GPUS=1 # the tiny model is built by one process
    work=checkpoints-finetune/tiny streams=24
    if [ "${1:-}" = --smoke ]; then work=$work-smoke streams=2; fi
    python -m flash_vstream build --work_dir "$work" "$@"
    python -m flash_vstream eval --model_path "$work/stage2" --output_dir "$work/score" --streams "$streams"
    echo "== the shipped model, for comparison"
    python -m flash_vstream eval --output_dir "$work/score-shipped" --streams "$streams"
    exec python -m flash_vstream report "$work/score" --compare "$work/score-shipped"
    ;;
  *.yaml | *.yml) exec python -m flash_vstream recipe "$recipe" "$@" ;;
  *)
    if [ ! -f "scripts/recipe_$recipe.yaml" ]; then
      echo "error: recipe '$recipe' is unknown: give synthetic, 7b or the path of a .yaml file" >&2
      exit 2
    fi
    exec python -m flash_vstream recipe "scripts/recipe_$recipe.yaml" "$@"
    ;;
esac
