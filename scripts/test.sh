#!/usr/bin/env bash
# The gate: lint, types and tests, in this order; it stops at the first that fails. Sets up .venv by itself.
# Arguments go to pytest: `bash scripts/test.sh tests/memory -k ward`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh dev
ruff check .
mypy
workers=${PYTEST_WORKERS:-$(nproc 2>/dev/null || echo 2)} # asked before the next line, after which nproc says 1
# One thread for each test process: the arrays of the tests are small, and threads that share cores only wait.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
# A file's tests in one process, lest what is made once for all of them (runs of two processes) be made in each.
exec pytest -q -n "$workers" --dist loadfile "$@"
