"""Reports: the numbers against plain counting, the groups, the files, comparisons, and what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flash_vstream.eval.answering.identity import questions_digest
from flash_vstream.eval.answering.store import Row
from flash_vstream.eval.benchmarks.base import BENCHMARKS, load_items
from flash_vstream.eval.judging.judge import NO_PREDICTION, Verdict, write_verdicts
from flash_vstream.eval.reporting import report as command
from flash_vstream.eval.reporting.compare import compare
from flash_vstream.eval.reporting.markdown import render, render_comparison, table
from flash_vstream.eval.reporting.metrics import Group, Report, TagReport, build_report
from flash_vstream.eval.reporting.report import write_report
from flash_vstream.eval.sample import Item

RUN = {
    "model_path": "ckpt/7b",
    "checkpoint": "sha256:1234",
    "protocol": "stream",
    "memory_mode": "star",
    "tags": ["nextoe"],
}
JUDGE = "judge-2026-01-01 (prompt 1)"


def item(number: int, tag: str = "nextoe", **changes: Any) -> Item:
    kinds = ("CW", "CH", "TN", "DO")
    values = {"question": "What?", "answer": "a cat", "video_id": f"v{number % 7}", "answer_type": kinds[number % 4]}
    return Item(tag=tag, id=str(number), **(values | changes))


def rows_of(items: list[Item], verdicts: list[Verdict]) -> list[Row]:
    """Prediction rows that go with verdicts."""
    return [
        {
            "tag": each.tag,
            "id": each.id,
            "video_id": each.video_id,
            "prediction": None if verdict.failure == NO_PREDICTION else "something",
            "error": "video is missing" if verdict.failure == NO_PREDICTION else None,
            "frames_seen": 3,
            "seconds": 0.1,
        }
        for each, verdict in zip(items, verdicts, strict=True)
    ]


def yes(of: Item, score: float | None = 4.0, judge: str = JUDGE) -> Verdict:
    return Verdict(of.tag, of.id, True, score, None, judge)


def no(of: Item, score: float | None = 1.0, judge: str = JUDGE) -> Verdict:
    return Verdict(of.tag, of.id, False, score, None, judge)


def failed(of: Item, reason: str, judge: str = JUDGE) -> Verdict:
    return Verdict(of.tag, of.id, None, None, reason, judge)


def build(items: list[Item], verdicts: list[Verdict]) -> Report:
    return build_report(items, rows_of(items, verdicts), verdicts, RUN)


def group(tag: TagReport, name: str) -> Group:
    [found] = [each for each in tag.groups if each.name == name]
    return found


def test_the_numbers_are_those_of_counting() -> None:
    items = [item(number) for number in range(60)]
    rng = random.Random(0)
    verdicts = [rng.choice([yes(each, 5.0), yes(each, 3.0), no(each), failed(each, "time-out")]) for each in items]
    verdicts[0] = failed(items[0], NO_PREDICTION)
    [tag] = build(items, verdicts).tags
    for name, kinds in {
        "all": {"CW", "CH", "TN", "DO"},
        "C (causal)": {"CW", "CH"},
        "T (temporal)": {"TN"},
        "D (descriptive)": {"DO"},
        "CH": {"CH"},
    }.items():
        mine = [verdict for each, verdict in zip(items, verdicts, strict=True) if each.answer_type in kinds]
        judged = [verdict for verdict in mine if verdict.failure is None]
        right = [verdict for verdict in judged if verdict.correct]
        found = group(tag, name)
        assert (found.n_questions, found.n_judged, found.n_right) == (len(mine), len(judged), len(right))
        assert found.accuracy_over_judged.value == pytest.approx(100 * len(right) / len(judged))
        assert found.accuracy_over_all.value == pytest.approx(100 * len(right) / len(mine))
        assert found.score.value == pytest.approx(sum(verdict.score or 0 for verdict in judged) / len(judged))
        for measured in (found.accuracy_over_judged, found.accuracy_over_all, found.score):
            assert measured.low is not None and measured.value is not None and measured.high is not None
            assert measured.low < measured.value < measured.high
    names = [each.name for each in tag.groups]
    assert names == ["all", "C (causal)", "D (descriptive)", "T (temporal)", "CH", "CW", "DO", "TN"]
    reasons = [verdict.failure for verdict in verdicts if verdict.failure]
    assert tag.failures == {"time-out": reasons.count("time-out"), NO_PREDICTION: 1}
    assert tag.judge == JUDGE and tag.n_known == 9178
    assert [published.accuracy for published in tag.published] == [61.6, 47.5]


def test_the_synthetic_world_by_split_with_yes_no_apart() -> None:
    splits, answers = ("now", "back then"), ("yes", "no", "kitchen", "two")
    items = [item(n, "synthetic", split=splits[n % 2], answer=answers[n // 2 % 4]) for n in range(32)]
    verdicts = [yes(each, None) if each.answer in ("yes", "kitchen") else no(each, None) for each in items]
    verdicts[1] = no(items[1], None)  # back then, yes
    [tag] = build(items, verdicts).tags
    accuracies = {each.name: each.accuracy_over_all.value for each in tag.groups if each.name.startswith(splits)}
    assert accuracies == {"now": 50, "back then": 50, "now, yes/no": 50, "back then, yes/no": 37.5}
    assert group(tag, "all").score.value is None
    assert "| -" in render(build(items, verdicts))


def test_missing_videos_stay_in_over_all() -> None:
    items = [item(number, "msvd", answer_type="") for number in range(20)]
    verdicts = [yes(each) if number < 5 else failed(each, NO_PREDICTION) for number, each in enumerate(items)]
    [tag] = build(items, verdicts).tags
    assert [each.name for each in tag.groups] == ["all"]
    assert tag.groups[0].accuracy_over_judged.value == 100
    assert tag.groups[0].accuracy_over_all.value == 25
    nothing = [failed(each, "time-out") for each in items]
    [tag] = build(items, nothing).tags
    assert tag.groups[0].accuracy_over_judged.value is None and tag.groups[0].accuracy_over_all.value == 0
    one_video = [item(number, video_id="v") for number in range(4)]
    measured = build(one_video, [yes(each) for each in one_video]).tags[0].groups[0].accuracy_over_all
    assert measured.value == 100 and measured.low is None


def test_what_does_not_belong_together_is_refused() -> None:
    items = [item(number) for number in range(3)]
    verdicts = [yes(each) for each in items]
    rows = rows_of(items, verdicts)
    with pytest.raises(ValueError, match=r"1 questions are not among the verdicts \(nextoe 2\)"):
        build_report(items, rows, verdicts[:2], RUN)
    with pytest.raises(ValueError, match="1 questions have more than one verdict"):
        build_report(items, rows, [*verdicts, verdicts[0]], RUN)
    with pytest.raises(ValueError, match=r"1 questions are not among the predictions \(nextoe 0\)"):
        build_report(items, rows[1:], verdicts, RUN)
    with pytest.raises(ValueError, match="nextoe 1 has been predicted again since it was judged: judge again"):
        build_report(items, rows, [verdicts[0], failed(items[1], NO_PREDICTION), verdicts[2]], RUN)
    with pytest.raises(ValueError, match="nextoe has verdicts of more than one judge"):
        build_report(items, rows, [*verdicts[:2], yes(items[2], judge="another")], RUN)


def test_the_text_says_what_was_measured_with_what() -> None:
    items = [item(number) for number in range(40)]
    verdicts = [yes(each) if number % 2 else no(each) for number, each in enumerate(items)]
    verdicts[0] = failed(items[0], "rate limit")
    verdicts[1] = failed(items[1], NO_PREDICTION)
    text = render(build(items, verdicts))
    for words in (
        "- model_path: ckpt/7b",
        "- checkpoint: sha256:1234",
        "- protocol: stream",
        "- memory_mode: star",
        '- tags: ["nextoe"]',
        "40 questions of the 9,178 of the whole set, 7 videos. Judge: judge-2026-01-01 (prompt 1).",
        "Failures: 2, 1 of them the judge's (1 rate limit, 1 no prediction).",
        "- published: 61.6 %, score 3.4; judge: gpt-3.5-turbo, version not stated",
        "- published: 47.5 %; judge: gpt-3.5-turbo-0125",
    ):
        assert words in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1  # aligned
    assert lines[2].split("|")[1].strip() == "all" and lines[2].split("|")[5].strip().startswith("50.0 [")


def test_a_table_keeps_its_columns() -> None:
    assert table(["a", "b"], [["x|y", "1"], ["z", "22"]]) == [
        "| a    |  b |",
        "| ---- | -: |",
        "| x\\|y |  1 |",
        "| z    | 22 |",
    ]


def two_runs() -> tuple[list[Item], list[Verdict], list[Verdict]]:
    """The second is right about 12 that the first is not, the first about 3; each has a question without a verdict."""
    items = [item(number, video_id=f"v{number % 20}") for number in range(60)]
    first = [yes(each) if number < 23 else no(each) for number, each in enumerate(items)]
    second = [yes(each) if 3 <= number < 35 else no(each) for number, each in enumerate(items)]
    first[40] = failed(items[40], "time-out")
    second[50] = failed(items[50], NO_PREDICTION)
    second[10] = failed(items[10], NO_PREDICTION)
    return items, first, second


def test_paired_comparison() -> None:
    items, first, second = two_runs()
    found = compare((items, first, RUN), (items, second, RUN | {"protocol": "release"}), ("a", "b"))
    assert found.differences == {"protocol": ("stream", "release")}
    judged, over_all = found.tags
    assert (judged.over, judged.n_questions, judged.only_first, judged.only_second) == ("judged", 57, 3, 12)
    assert judged.p == pytest.approx(0.03515625)  # 2 * (1 + 15 + 105 + 455) / 2**15
    assert (over_all.n_questions, over_all.only_first, over_all.only_second) == (60, 4, 12)
    assert over_all.first == pytest.approx(100 * 23 / 60) and over_all.second == pytest.approx(100 * 31 / 60)
    difference = judged.difference
    assert difference.value == pytest.approx(100 * 9 / 57)
    assert difference.low is not None and difference.high is not None
    assert 0 < difference.low < 100 * 9 / 57 < difference.high
    text = render_comparison(found)
    assert "- protocol: A stream, B release" in text and "0.0352" in text and "+15.8 [+" in text


def test_the_same_run_differs_in_nothing() -> None:
    items, first, _ = two_runs()
    for paired in compare((items, first, RUN), (items, first, RUN), ("a", "b")).tags:
        assert paired.p == 1 and paired.only_first == paired.only_second == 0
        assert (paired.difference.value, paired.difference.low, paired.difference.high) == (0, 0, 0)


def test_what_cannot_be_compared_is_refused() -> None:
    items, first, second = two_runs()
    with pytest.raises(ValueError, match=r"1 a are not among the b \(nextoe 59\)"):
        compare((items, first, RUN), (items[:59], second[:59], RUN), ("a", "b"))
    other = [Verdict(each.tag, each.id, each.correct, each.score, each.failure, "another") for each in second]
    with pytest.raises(ValueError, match=r"judged by judge-2026-01-01 .* in a and by another in b.*judge both"):
        compare((items, first, RUN), (items, other, RUN), ("a", "b"))


def test_files_and_picture(tmp_path: Path) -> None:
    items = [item(number) for number in range(40)] + [item(number, "msvd", answer_type="") for number in range(10)]
    verdicts = [yes(each) if int(each.id) % 3 else no(each) for each in items]
    written = write_report(build(items, verdicts), tmp_path)
    assert [path.name for path in written] == ["report.json", "report.md", "report.png"]
    saved = json.loads(written[0].read_text())
    assert saved["run"] == RUN and [tag["tag"] for tag in saved["tags"]] == ["nextoe", "msvd"]
    assert saved["tags"][0]["groups"][0]["accuracy_over_all"]["value"] == pytest.approx(100 * 26 / 40)
    assert written[1].read_text().startswith("- model_path: ckpt/7b")
    with Image.open(written[2]) as picture:
        colours = picture.convert("RGB").getcolors(1 << 24)
    assert picture.width > 800 and colours is not None
    by_colour = {colour: count for count, colour in colours}
    assert by_colour[31, 119, 180] > 100 and by_colour[255, 127, 14] > 100  # both kinds of points were drawn


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two results folders of the same 60 questions."""
    items, first, second = two_runs()
    source = [
        {
            "id": each.id,
            "video_id": each.video_id,
            "question": "What?",
            "answer": "a cat",
            "answer_type": each.answer_type,
        }
        for each in items
    ]
    (tmp_path / "data/nextqa").mkdir(parents=True)
    (tmp_path / "data/nextqa/test_qa.json").write_text(json.dumps(source))
    for name, verdicts in (("a", first), ("b", second)):
        folder = tmp_path / name
        folder.mkdir()
        digest = questions_digest(load_items(BENCHMARKS["nextoe"], tmp_path / "data"))
        (folder / "run.json").write_text(json.dumps(RUN | {"limit": None, "questions": digest}))
        lines = [json.dumps(row) + "\n" for row in rows_of(items, verdicts)]
        (folder / "predictions.jsonl").write_text("".join(lines))
        write_verdicts(folder, verdicts)
    return tmp_path / "a", tmp_path / "b"


def test_the_command(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    first, second = map(str, folders)
    options = ["--data_root", str(folders[0].parent / "data"), "--max_judge_failures", "0.02"]
    assert command.main([first, *options]) == 0
    assert "nextoe: NExT-QA open-ended" in capsys.readouterr().out
    for arguments in ([first, "--compare", second], ["--compare", first, second]):
        assert command.main([*arguments, *options]) == 0
        assert "0.0352" in capsys.readouterr().out
    assert json.loads((folders[0] / "comparison.json").read_text())["tags"][0]["only_second"] == 12
    # One judge failure in 60: past this threshold the report is still written, and the exit status says no.
    assert command.main([first, "--data_root", options[1], "--max_judge_failures", "0.01"]) == 1
    assert "not to be quoted" in capsys.readouterr().err
    assert (folders[0] / "report.png").is_file()


def test_the_command_with_bad_input(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    first = folders[0]
    options = ["--data_root", str(first.parent / "data")]
    (first / "verdicts.jsonl").write_text("nonsense\n")
    assert command.main([str(first), *options]) == 2
    assert "verdicts.jsonl line 1 is no verdict" in capsys.readouterr().err
    (first / "verdicts.jsonl").unlink()
    assert command.main([str(first), *options]) == 2
    captured = capsys.readouterr().err
    assert "make it with python -m flash_vstream.eval.judging.judge" in captured and captured.count("\n") == 1
    assert command.main([str(first / "nothing"), *options]) == 2
    assert "is no folder of results" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command.main(options)
    path = first.parent / "data/nextqa/test_qa.json"
    path.write_text(path.read_text().replace("a cat", "a dog"))
    assert command.main([str(folders[1]), *options]) == 2
    assert "are not those that" in capsys.readouterr().err
