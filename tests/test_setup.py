"""scripts/setup.sh on a copy of its own, with an interpreter that only plays Python: no network, nothing installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "setup.sh"

# Does what `python -m venv [--clear] FOLDER` does: without --clear it leaves what is there.
PYTHON = """\
#!/bin/bash
[ "$1" = -c ] && exit 0
[ "$1" = --version ] && { echo "Python 3.11.0"; exit 0; }
for folder; do true; done
[ "$3" = --clear ] && rm -rf "$folder"
mkdir -p "$folder/bin"
[ -e "$folder/bin/python" ] || cp "$(dirname "$0")/python_of_venv" "$folder/bin/python"
"""

# Has pip, and finds the package once pip has installed it.
PYTHON_OF_VENV = """\
#!/bin/bash
installed="$(dirname "$0")/../installed_by_pip"
case "$*" in
  "-m pip --version") exit 0 ;;
  "-m pip install "*) echo "${@: -1}" >>"$installed" ;;
  *) [ -f "$installed" ] ;;
esac
"""

# What is left when ensurepip fails or is interrupted.
PYTHON_WITHOUT_PIP = "#!/bin/bash\necho 'No module named pip' >&2\nexit 1\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository of nothing but the script."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    write_program(tmp_path / "tools" / "python", PYTHON)
    write_program(tmp_path / "tools" / "python_of_venv", PYTHON_OF_VENV)
    return tmp_path


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def set_up(root: Path, extras: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": str(root / "tools" / "python")}
    command = f'source "{root}/scripts/setup.sh" "{extras}" && echo "$VIRTUAL_ENV"'
    return subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)


def installed(root: Path) -> list[str]:
    return (root / ".venv" / "installed_by_pip").read_text().splitlines()


def test_a_second_set_up_does_nothing(root: Path) -> None:
    assert set_up(root).stdout == f"{root}/.venv\n"
    second = set_up(root)
    assert (second.returncode, second.stdout, second.stderr) == (0, f"{root}/.venv\n", "")
    assert installed(root) == [str(root)]


def test_a_new_extra_goes_into_the_environment_that_is_there(root: Path) -> None:
    set_up(root)
    assert set_up(root, "dev").returncode == 0
    assert installed(root) == [str(root), f"{root}[dev]"]


def test_an_environment_without_pip_is_made_anew(root: Path) -> None:
    write_program(root / ".venv" / "bin" / "python", PYTHON_WITHOUT_PIP)
    result = set_up(root)
    assert (result.returncode, result.stdout) == (0, f"{root}/.venv\n"), result.stderr
    assert installed(root) == [str(root)]
