"""How every command ends."""

from __future__ import annotations

import pytest

from flash_vstream.command import run_command


def raising(error: BaseException):  # type: ignore[no-untyped-def]
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_the_exit_code_is_that_of_the_work(returned: int | None, code: int) -> None:
    assert run_command(lambda: returned) == code


@pytest.mark.parametrize(
    ("rank", "said"), [(None, "error: no a b"), ("0", "error: no a b"), ("3", "error: process 3: no a b")]
)
def test_wrong_input_is_one_line_that_names_the_process(
    rank: str | None, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    for error in (ValueError("no a\n  b"), OSError("no a b")):
        assert run_command(raising(error)) == 2
        assert capsys.readouterr().err == f"{said}\n"


def test_other_errors_are_refusals_only_where_a_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="bug"):
        run_command(raising(RuntimeError("bug")))
    assert run_command(raising(RuntimeError("no room")), refused=(RuntimeError,)) == 2
    assert capsys.readouterr().err == "error: no room\n"


def test_ctrl_c_says_what_may_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(raising(KeyboardInterrupt()), interrupted="nothing was written") == 130
    assert capsys.readouterr().err == "interrupted: nothing was written\n"
