#!/usr/bin/env bash
# Makes or reuses the virtual environment .venv at the top of the repository and puts it first on PATH.
#
#   source scripts/setup.sh            what the package itself needs
#   source scripts/setup.sh dev        with an extra of pyproject.toml (several: dev,eval)
#
# pip runs only if pyproject.toml has changed, an extra is new, or the package cannot be imported; otherwise this prints
# nothing. Of two set-ups at the same time the second waits. PYTHON names the interpreter to make .venv with (3.11 or
# later; default: the first one found). On a machine without a GPU, pip takes a CPU build of torch if the configured
# package index offers one; the upper bound of torch in pyproject.toml makes that possible.

_vstream_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3 python}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return 0
    fi
  done
  echo "error: no Python 3.11 or later found${PYTHON:+ (PYTHON=$PYTHON)}; install one, or name it: PYTHON=/path/to/python3" >&2
  return 1
}

# Prints the extras that are not installed yet from the present pyproject.toml ("base" is the package itself).
_vstream_missing() { # $1 the root, $2 the extras -> the extras still to install; fails where there are none
  local python="$1/.venv/bin/python" stamp="$1/.venv/installed.txt" sum extra missing=""
  sum=$(cksum <"$1/pyproject.toml")
  if ! "$python" -I -c 'from importlib.util import find_spec as f; import sys; sys.exit(not all(map(f, sys.argv[1:])))' \
    flash_vstream torch transformers av prompt_toolkit 2>/dev/null; then
    rm -f "$stamp"
  fi
  for extra in "base" ${2//,/ }; do
    grep -qxF "$sum $extra" "$stamp" 2>/dev/null || missing="$missing $extra"
  done
  [ -n "$missing" ] && echo "$missing"
}

_vstream_install() { # $1 the root, $2 the extras, space-separated, "base" for none
  local root="$1" extras extra python log="$1/.venv/setup.log"
  extras=$(tr ' ' '\n' <<<"$2" | grep -vxE 'base|' | paste -sd, -)
  # Test for pip, not for python: an interrupted `python -m venv` leaves an environment without pip.
  if ! "$root/.venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(_vstream_python) || return 1
    echo "set-up: making .venv with $("$python" --version 2>&1)" >&2
    if ! "$python" -m venv --clear "$root/.venv" >&2; then
      echo "error: $python could not make a virtual environment; install its venv module, or name another: PYTHON=..." >&2
      return 1
    fi
  fi
  echo "set-up: installing the package${extras:+ with $extras} (minutes the first time; details in .venv/setup.log)" >&2
  if ! "$root/.venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off \
    -e "$root${extras:+[$extras]}" >"$log" 2>&1; then
    grep -E '^ *ERROR' "$log" | head -5 >&2
    echo "error: pip could not install the package; read .venv/setup.log, then run this again" >&2
    return 1
  fi
  for extra in $2; do
    echo "$(cksum <"$root/pyproject.toml") $extra" >>"$root/.venv/installed.txt"
  done
  echo "set-up: done" >&2
}

_vstream_setup() { # $1 the extras, comma-separated
  local root missing
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  if missing=$(_vstream_missing "$root" "${1:-}"); then
    (
      # The lock ends with this subshell. Systems without flock run without it.
      exec 9>"$root/.setup.lock"
      if command -v flock >/dev/null && ! flock -n 9; then
        echo "set-up: waiting for another set-up of this folder to finish" >&2
        flock 9
      fi
      # The other set-up may have installed everything.
      if missing=$(_vstream_missing "$root" "${1:-}"); then _vstream_install "$root" "$missing" 9>&-; fi
    ) || return 1
  fi
  export PATH="$root/.venv/bin:$PATH" VIRTUAL_ENV="$root/.venv"
}

_vstream_setup "${1:-}"
