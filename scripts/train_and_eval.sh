#!/usr/bin/env bash
# Trains a model in two stages and scores it. Sets up .venv by itself; run it again after a kill and it goes on.
#
#   bash scripts/train_and_eval.sh                      the tiny model on the synthetic world, from nothing, on one GPU
#                                                       or none (an hour or so on 2 cores with AVX-512)
#   bash scripts/train_and_eval.sh synthetic --smoke    the same steps on almost no data, in some minutes
#   bash scripts/train_and_eval.sh 7b                   the real recipe, scripts/recipe_7b.yaml, on all GPUs of this
#                                                       machine (GPUS=2 takes fewer); --check only looks what is missing
#   bash scripts/train_and_eval.sh FILE.yaml            a recipe of your own, on as many
#
# Several machines: docs/training.md.
set -euo pipefail
recipe=${1:-synthetic}
shift || true
case "$recipe" in
  -h | --help)
    sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit
    ;;
  /*) ;;
  *.yaml | *.yml) recipe=$PWD/$recipe ;; # as the caller means it; what the file names starts from the repository
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh train,eval
export TOKENIZERS_PARALLELISM=false
case "$recipe" in
  synthetic)
    gpus=${CUDA_VISIBLE_DEVICES-0}
    export CUDA_VISIBLE_DEVICES=${gpus%%,*} # this build is one process, which takes one GPU
    work=checkpoints-finetune/tiny streams=24
    if [ "${1:-}" = --smoke ]; then work=$work-smoke streams=2; fi
    python -m flash_vstream.synthetic.build --work_dir "$work" "$@"
    python -m flash_vstream.eval --model_path "$work/stage2" --output_dir "$work/score" --streams "$streams"
    echo "== the shipped model, to compare with"
    python -m flash_vstream.eval --output_dir "$work/score-shipped" --streams "$streams"
    exec python -m flash_vstream.eval.reporting.report "$work/score" --compare "$work/score-shipped"
    ;;
  *.yaml | *.yml) exec python -m flash_vstream.recipe "$recipe" "$@" ;;
  *)
    if [ ! -f "scripts/recipe_$recipe.yaml" ]; then
      echo "error: recipe '$recipe' is unknown: give synthetic, 7b or the path of a .yaml file" >&2
      exit 2
    fi
    exec python -m flash_vstream.recipe "scripts/recipe_$recipe.yaml" "$@"
    ;;
esac
