#!/usr/bin/env bash
# Plays a video as a live stream and answers questions about it while it plays; without arguments the shipped clip with
# the shipped model. Sets up .venv by itself. `bash scripts/realtime_cli.sh --help` lists the options.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
# Until the program itself attends to Ctrl-C, Ctrl-C just ends it: the imports take seconds, and would end in a traceback.
exec python -c 'import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
from flash_vstream.serve.command import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())' "$@"
