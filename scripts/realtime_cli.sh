#!/usr/bin/env bash
# Plays a video as a live stream and answers questions about it while it plays. Without arguments: the shipped clip and
# the shipped model. Sets up .venv. `bash scripts/realtime_cli.sh --help` lists the options.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
exec python -m flash_vstream live "$@"
