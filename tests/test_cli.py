"""The command line: which commands there are, how they start, and how every one of them ends."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from flash_vstream import __version__, cli

CONTRACT = (
    *("live", "train", "merge", "extract", "check", "eval"),
    *("choose", "judge", "report", "ablate", "prepare", "assemble"),
)


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_exit_code_is_that_of_the_work(returned: int | None, code: int) -> None:
    assert cli.finish(lambda: returned) == code


@pytest.mark.parametrize(
    ("rank", "line"), [(None, "error: no a b"), ("0", "error: no a b"), ("3", "error: process 3: no a b")]
)
def test_bad_input_is_one_line_that_names_the_process(
    rank: str | None, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    for error in (ValueError("no a\n  b"), OSError("no a b")):
        assert cli.finish(raising(error)) == 2
        assert capsys.readouterr().err == f"{line}\n"


def test_an_error_of_a_data_worker_is_its_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = "Caught ValueError in DataLoader worker process 0.\nTraceback:\n  File x\nValueError: record 'r1' is bad"
    assert cli.finish(raising(ValueError(text))) == 2
    assert capsys.readouterr().err == "error: record 'r1' is bad\n"


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="bug"):
        cli.finish(raising(RuntimeError("bug")))


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.finish(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.startswith("interrupted")


@pytest.mark.parametrize("words", [[], ["lvie"], ["--model_path"]])
def test_an_unknown_command_lists_the_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert "live" in error
    assert "ablate" in error


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in CONTRACT)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_and_refuses_other_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: flash-vstream {name} ")
    assert cli.main([name, "--no_such_option"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_parallel_command_is_launched_once_per_gpu(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two real processes through torchrun: each refuses the option, and the exit code is not 0."""
    monkeypatch.setenv("GPUS", "2")
    monkeypatch.delenv("RANK", raising=False)
    assert cli.main(["extract", "--input", "missing-folder", "--output", "out"]) != 0
    error = capfd.readouterr().err
    assert "error: " in error
    assert "error: process 1: " in error


def test_a_launched_process_does_not_launch_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUS", "2")
    monkeypatch.setenv("RANK", "0")
    module = SimpleNamespace(parser=lambda: SimpleNamespace(parse_args=lambda words: words), run=lambda options: 7)
    monkeypatch.setattr(importlib, "import_module", lambda name: module)
    assert cli.main(["eval"]) == 7


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from flash_vstream import cli; cli.main(['--help']); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"


def test_python_dash_m_works() -> None:
    result = subprocess.run([sys.executable, "-m", "flash_vstream", "nothing"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "'nothing'" in result.stderr
