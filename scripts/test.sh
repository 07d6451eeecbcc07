#!/usr/bin/env bash
# Runs lint, types and tests, and stops at the first that fails. Sets up .venv.
#
#   bash scripts/test.sh                          all but the slow tests, about 5 minutes on 2 cores
#   bash scripts/test.sh --slow                   every test
#   bash scripts/test.sh tests/memory -k ward     other arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh dev
selection="not slow"
if [ "${1:-}" = --slow ]; then
  selection="slow or not slow"
  shift
fi
ruff check .
ruff format --check .
mypy
workers=${PYTEST_WORKERS:-$(nproc 2>/dev/null || echo 2)} # before the next line, because nproc heeds OMP_NUM_THREADS
# One thread in each test process: the arrays of the tests are small.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
# The tests of a file run in one process, so that runs that several tests look at are made once.
exec pytest -q -n "$workers" --dist loadfile -m "$selection" "$@"
