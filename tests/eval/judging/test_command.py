"""`flash-vstream judge` on a results folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from flash_vstream.cli import main
from flash_vstream.eval.judging.cache import JudgeRequest
from flash_vstream.eval.judging.settings import JudgeSettings
from flash_vstream.eval.results import VERDICTS_FILE, read_results, read_verdicts
from tests.eval.folders import write_results
from tests.eval.judging.test_judge import ENDPOINT, NO, YES, fill, sample

REPLIES = {JudgeRequest("What is 0?", "a cat", "cat"): YES, JudgeRequest("What is 1?", "a cat", "dog"): NO}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder of three questions of MSVD-QA, one without a prediction; nobody can be asked."""
    monkeypatch.chdir(tmp_path)  # where the shared cache lies
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    samples = [sample(0, "cat"), sample(1, "dog"), sample(2, None)]
    write_results(tmp_path / "run", tmp_path / "data", samples, {})
    return tmp_path / "run"


def judge(results: Path, *options: str) -> int:
    return main(["judge", "--predictions", str(results), "--data_root", str(results.parent / "data"), *options])


def verdicts(results: Path) -> list[bool | None]:
    _, samples = read_results(results, results.parent / "data")
    return [each.verdict.correct for each in read_verdicts(results, samples) if each.verdict]


def test_a_dry_run_asks_nobody_and_a_missing_key_is_one_line(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(results, "--dry_run") == 0
    assert "2 to ask gpt-" in capsys.readouterr().out
    assert judge(results) == 2
    error = capsys.readouterr().err
    assert "OPENAI_API_KEY" in error and error.count("\n") == 1
    assert not (results / VERDICTS_FILE).exists()


def test_the_offline_judge(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(results, "--judge", "offline") == 0
    assert capsys.readouterr().out == "msvd: 3 questions, 2 judged by offline match, 1 right, 1 failed: no prediction\n"
    assert verdicts(results) == [True, False, None]


def test_the_cache_serves_every_results_folder(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(JudgeSettings().cache, REPLIES)
    other = results.with_name("other")
    samples = read_results(results, results.parent / "data")[1]
    write_results(other, results.parent / "data", samples, {"memory_mode": "merge"})
    for folder in (results, other):
        assert judge(folder, "--judge_model", ENDPOINT.model, "--dry_run") == 0
        assert "total: 0 to ask" in capsys.readouterr().out
        assert judge(folder, "--judge_model", ENDPOINT.model) == 0
        assert verdicts(folder) == [True, False, None]


def test_too_many_failures_are_an_exit_code(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(JudgeSettings().cache, dict(zip(REPLIES, (YES, "Hm."), strict=True)))
    assert judge(results, "--judge_model", ENDPOINT.model) == 1
    captured = capsys.readouterr()
    assert "1 failed: unreadable reply" in captured.out
    assert "50.0 %" in captured.err and "--max_judge_failures" in captured.err
    assert judge(results, "--judge_model", ENDPOINT.model, "--max_judge_failures", "0.5") == 0
