"""The numbers of a report against plain counting: groups, failures, and the methods of multiple choice."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from flash_vstream.eval.judging.judge import judge
from flash_vstream.eval.judging.multiple_choice import METHODS, OFFICIAL, methods_of
from flash_vstream.eval.judging.settings import JudgeSettings
from flash_vstream.eval.reporting.metrics import Choice, Group, TagReport, build_report
from flash_vstream.eval.sample import NO_PREDICTION, Prediction, Sample
from tests.eval.reporting.judged import JUDGE, failed, no, rated, sample, yes


def report_of(samples: list[Sample]) -> TagReport:
    [tag] = build_report(samples, {}).tags
    return tag


def group(tag: TagReport, name: str) -> Group:
    [found] = [each for each in tag.groups if each.name == name]
    return found


def test_the_numbers_are_those_of_counting() -> None:
    rng = random.Random(0)
    samples = [
        rng.choice([yes(each, 5.0), yes(each, 3.0), no(each), failed(each, "time-out")])
        for each in map(sample, range(60))
    ]
    samples[0] = failed(samples[0], NO_PREDICTION)
    tag = report_of(samples)
    for name, kinds in {
        "all": {"CW", "CH", "TN", "DO"},
        "C (causal)": {"CW", "CH"},
        "T (temporal)": {"TN"},
        "D (descriptive)": {"DO"},
        "CH": {"CH"},
    }.items():
        verdicts = [each.verdict for each in samples if each.answer_type in kinds and each.verdict]
        judged = [verdict for verdict in verdicts if verdict.failure is None]
        right = [verdict for verdict in judged if verdict.correct]
        found = group(tag, name)
        assert (found.n_questions, found.n_judged, found.n_right) == (len(verdicts), len(judged), len(right))
        assert found.accuracy_over_judged.value == pytest.approx(100 * len(right) / len(judged))
        assert found.accuracy_over_all.value == pytest.approx(100 * len(right) / len(verdicts))
        assert found.score.value == pytest.approx(sum(verdict.score or 0 for verdict in judged) / len(judged))
        for measured in (found.accuracy_over_judged, found.accuracy_over_all, found.score):
            assert measured.low is not None and measured.value is not None and measured.high is not None
            assert measured.low < measured.value < measured.high
    names = [each.name for each in tag.groups]
    assert names == ["all", "C (causal)", "D (descriptive)", "T (temporal)", "CH", "CW", "DO", "TN"]
    reasons = [each.verdict.failure for each in samples if each.verdict and each.verdict.failure]
    assert tag.failures == {"time-out": reasons.count("time-out"), NO_PREDICTION: 1}
    assert tag.judge == JUDGE and tag.n_known == 9178
    assert [published.accuracy for published in tag.published] == [61.6, 47.5]


def test_the_synthetic_world_by_split_with_yes_no_apart() -> None:
    splits, answers = ("now", "back then"), ("yes", "no", "kitchen", "two")
    samples = [sample(n, "synthetic", split=splits[n % 2], answer=answers[n // 2 % 4]) for n in range(32)]
    samples = [yes(each, None) if each.answer in ("yes", "kitchen") else no(each, None) for each in samples]
    samples[1] = no(samples[1], None)  # back then, yes
    tag = report_of(samples)
    accuracies = {each.name: each.accuracy_over_all.value for each in tag.groups if each.name.startswith(splits)}
    assert accuracies == {"now": 50, "back then": 50, "now, yes/no": 50, "back then, yes/no": 37.5}
    assert group(tag, "all").score.value is None


def test_missing_videos_stay_in_over_all() -> None:
    samples = [sample(number, "msvd", answer_type="") for number in range(20)]
    tag = report_of([yes(each) if n < 5 else failed(each, NO_PREDICTION) for n, each in enumerate(samples)])
    assert [each.name for each in tag.groups] == ["all"]
    assert tag.groups[0].accuracy_over_judged.value == 100
    assert tag.groups[0].accuracy_over_all.value == 25
    tag = report_of([failed(each, "time-out") for each in samples])
    assert tag.groups[0].accuracy_over_judged.value is None and tag.groups[0].accuracy_over_all.value == 0
    measured = report_of([yes(sample(n, video_id="v")) for n in range(4)]).groups[0].accuracy_over_all
    assert measured.value == 100 and measured.low is None  # one video has no interval


def test_two_judges_in_one_tag_are_refused() -> None:
    with pytest.raises(ValueError, match=r"nextoe.*another"):
        report_of([yes(sample(0)), yes(sample(1), judge="another")])


@pytest.fixture
def choice() -> tuple[TagReport, Choice]:
    """Six questions of OVO-Bench in three tasks; one has no prediction, one reply names no option."""
    samples = [
        rated(0, "A", (-1, -2)),
        rated(1, "B", (-1, -2), "B"),
        rated(2, "neither", (-3, -2), task="OCR"),
        rated(3, "A", (-3, -2), "B", "OCR"),
        rated(4, "B", (-1, -2), "B", "CRR"),
    ]
    samples.append(replace(samples[0], id="5", prediction=Prediction(None, "video is missing", 0, 0.0)))
    tag = report_of(judge(samples, JudgeSettings()))
    assert tag.choice is not None
    return tag, tag.choice


def test_multiple_choice_by_every_method(choice: tuple[TagReport, Choice]) -> None:
    tag, numbers = choice
    right = {method: groups[0].n_right for method, groups in numbers.methods.items()}
    # The answers are A B A B B A. Letters pick A A B B A; texts pick A by their sum and B by their mean.
    # The official reading finds a letter anywhere: "neither" has no A, and the others are as ours.
    by_reply = dict.fromkeys(("generated", "generated, official reading"), 3)
    assert right == by_reply | {"letter, sum": 2, "letter, mean": 2, "text, sum": 2, "text, mean": 3}
    assert tuple(right) == methods_of("ovo") == (METHODS[0], OFFICIAL, *METHODS[1:])
    assert tag.groups == numbers.methods["generated"]
    assert [each.name for each in tag.groups] == ["all", "CRR", "EPM", "OCR"]
    assert {method: groups[2].accuracy_over_all.value for method, groups in numbers.methods.items()} == {
        "generated": pytest.approx(200 / 3),
        "generated, official reading": pytest.approx(200 / 3),
        "letter, sum": pytest.approx(100 / 3),
        "letter, mean": pytest.approx(100 / 3),
        "text, sum": pytest.approx(100 / 3),
        "text, mean": pytest.approx(100 / 3),
    }
    assert numbers.n_unclear == 1 and tag.failures == {NO_PREDICTION: 1}
    assert numbers.chance == {"all": 50, "CRR": 50, "EPM": 50, "OCR": 50}


def test_the_benchmark_s_own_scores_of_multiple_choice(choice: tuple[TagReport, Choice]) -> None:
    """OVO-Bench: the mean over the tasks of each of its three groups, and the mean of the groups."""
    scores = choice[1].task_scores
    assert list(scores) == [*methods_of("ovo"), "chance"]
    assert scores["generated"] == pytest.approx(
        {"backward": 200 / 3, "real-time": 0, "forward": 100, "overall": (200 / 3 + 100) / 3}
    )
    assert scores["chance"] == pytest.approx({"backward": 50, "real-time": 50, "forward": 50, "overall": 50})


def test_polls_are_scored_by_the_first_yes() -> None:
    """E13: of two proactive questions one is answered in time by the texts; the official reading needs "yes"."""

    def poll(question: int, second: int, answer: str, reply: str, says_yes: bool) -> Sample:
        rating = [{"log_prob": each, "n_tokens": 1, "greedy": False} for each in ((-1, -2) if says_yes else (-2, -1))]
        prediction = Prediction(reply, None, second, 0.1, {"letters": rating, "texts": rating})
        return Sample(
            "streaming_bench", f"q{question}_{second}", "v", "?", answer, "Proactive Output", float(second),
            ("Yes", "No"), prediction=prediction,
        )  # fmt: skip

    polls = [
        poll(0, 1, "No", "No", False), poll(0, 2, "Yes", "yes, it is", True),
        poll(1, 1, "No", "Perhaps", True), poll(1, 2, "Yes", "Yes", True),
    ]  # fmt: skip
    choice = report_of(judge(polls, JudgeSettings())).choice
    assert choice is not None
    name = "proactive, within 2 s"
    assert {method: scores[name] for method, scores in choice.task_scores.items()} == {
        "generated": 100.0,  # "Perhaps" names no option, so it is no Yes
        "generated, official reading": 100.0,
        "letter, sum": 50.0,
        "letter, mean": 50.0,
        "text, sum": 50.0,
        "text, mean": 50.0,
        "chance": 25.0,
    }
