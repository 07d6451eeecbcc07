#!/usr/bin/env bash
# Watches many streams and answers questions about them over HTTP, for any OpenAI client. Without arguments: the shipped
# model, and the shipped clip as stream "demo". Sets up .venv. `bash scripts/serve.sh --help` lists the options.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "serve"
exec python -m flash_vstream serve "$@"
