"""Multiple choice: likelihoods against a plain forward, what a reply names, and one row for each item."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flash_vstream.eval.answering import multiple_choice as choice
from flash_vstream.eval.answering.generate import PredictSettings, look, plan, shuffled
from flash_vstream.eval.answering.likelihood import rate_continuations
from flash_vstream.eval.answering.multiple_choice import (
    METHODS,
    lettered_question,
    named_option,
    picks,
    rate_items,
    right_option,
    tally,
)
from flash_vstream.eval.answering.store import PredictionStore, merge, read_rows
from flash_vstream.eval.answering.watch import Seen
from flash_vstream.eval.judging.choice_verdicts import by_method
from flash_vstream.eval.sample import Item
from tests.conftest import TinyModel
from tests.eval.worlds import tiny, write_videos

OPTIONS = ("kitchen", "attic or cellar", "hall")
SETTINGS = PredictSettings(batch_size=4, max_new_tokens=4)


def lettered(item_id: str, video_id: str, end_time: float, answer: str = "B", task: str = "room") -> Item:
    question = lettered_question("Which room is shown?", OPTIONS)
    return Item("ovo", item_id, video_id, question, answer, task, end_time=end_time, options=OPTIONS)


def probe(item_id: str, video_id: str, end_time: float, answer: str = "Yes") -> Item:
    return Item(
        "ovo", item_id, video_id, "Is it dark? Answer Yes or No.", answer, "dark", None, end_time, None, ("Yes", "No")
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyModel, dict[str, Path]]:
    return tiny(), write_videos(tmp_path_factory.mktemp("videos"))


def seen_at(world: tuple[TinyModel, dict[str, Path]], video: str, end_time: float) -> Seen:
    (model, processor), media = world
    [(_, seen)] = look(model, processor, [lettered("x", video, end_time)], media, SETTINGS)
    assert isinstance(seen, Seen)
    return seen


def test_a_likelihood_is_that_of_a_plain_forward_over_the_whole_text(world: tuple[TinyModel, dict[str, Path]]) -> None:
    (model, processor), _ = world
    seen = seen_at(world, "v0", 9.0)
    prompt = processor.prompt("Which room is shown?")
    texts = ["A", "attic or cellar", "hall"]
    for text, rating in zip(texts, rate_continuations(model, processor, prompt, texts, [seen]), strict=True):
        ids = processor(f"{prompt} {text}", [seen.n_frames])["input_ids"]
        n_prompt = processor(prompt, [seen.n_frames])["input_ids"].shape[1]
        with torch.no_grad():
            logits = model(input_ids=ids, memory_tokens=[seen.tokens]).logits[0, n_prompt - 1 : -1].double()
        expected = -torch.nn.functional.cross_entropy(logits, ids[0, n_prompt:], reduction="sum")
        assert rating.n_tokens == ids.shape[1] - n_prompt
        assert rating.log_prob == pytest.approx(float(expected), abs=1e-3)
        assert rating.mean == pytest.approx(float(expected) / rating.n_tokens, abs=1e-3)


def test_what_generation_gives_is_greedy_and_the_video_decides(world: tuple[TinyModel, dict[str, Path]]) -> None:
    (model, processor), _ = world
    prompt = processor.prompt("Which room is shown?") + " "  # this random model does not begin with a space
    assert prompt.count("<image>") == 1
    first, other = seen_at(world, "v0", 30.0), seen_at(world, "v1", 30.0)
    reply = choice.generate(model, processor, [prompt], [first], 1)[0]
    spoken, other_word = rate_continuations(model, processor, prompt, [reply, "hall"], [first])
    assert spoken.greedy and spoken.n_tokens == 1 and not other_word.greedy
    elsewhere = rate_continuations(model, processor, prompt, [reply, "hall"], [other])
    assert spoken.log_prob != pytest.approx(elsewhere[0].log_prob, abs=1e-3)
    assert other_word.log_prob != pytest.approx(elsewhere[1].log_prob, abs=1e-3)


def test_a_continuation_without_a_token_is_refused(world: tuple[TinyModel, dict[str, Path]]) -> None:
    (model, processor), _ = world
    with pytest.raises(ValueError, match="adds nothing"):
        rate_continuations(model, processor, "Say it: ", ["", "no"], [])


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("B", 1), ("b.", 1), ("(C)", 2), ("The answer is A.", 0), ("B) attic or cellar", 1), ("Hall.", 2),
        ("A kitchen", 0), ("D", None), ("A room with a view", None), ("", None), ("none of them", None),
    ],
)  # fmt: skip
def test_a_reply_names_an_option_or_none(reply: str, number: int | None) -> None:
    assert named_option(lettered("x", "v0", 1.0), reply) == number


@pytest.mark.parametrize(
    ("reply", "number"), [("Yes", 0), ("No, it is not.", 1), ("it is: yes!", 0), ("A", None), ("Nobody knows", None)]
)
def test_a_reply_to_a_probe_is_its_first_word_that_is_an_option(reply: str, number: int | None) -> None:
    assert named_option(probe("x", "v0", 1.0), reply) == number


def test_numbers_count_as_digits_and_as_words() -> None:
    item = replace(probe("x", "v0", 1.0), options=tuple(map(str, range(13))), answer="3")
    assert [named_option(item, reply) for reply in ("3", "three", "They did it 3 times.", "30")] == [3, 3, 3, None]
    assert right_option(item) == 3
    with pytest.raises(ValueError, match="ovo x: the answer '40' is none of its options"):
        right_option(replace(item, answer="40"))


def test_each_way_of_rating_picks_by_its_own_number() -> None:
    def rating(log_prob: float, n_tokens: int) -> dict[str, float | int | bool]:
        return {"log_prob": log_prob, "n_tokens": n_tokens, "greedy": False}

    letters = [rating(-3, 1), rating(-1, 1), rating(-2, 4)]
    texts = [rating(-5, 1), rating(-12, 4), rating(-4, 1)]
    prediction = {"reply": "hall", "letters": letters, "texts": texts}
    picked = picks(lettered("x", "v0", 1.0), prediction)
    assert picked == {"generated": 2, "letter, sum": 1, "letter, mean": 2, "text, sum": 2, "text, mean": 1}
    assert tuple(picked) == METHODS


def test_items_are_rated_once_each_and_a_missing_video_is_a_failure(
    world: tuple[TinyModel, dict[str, Path]], tmp_path: Path
) -> None:
    (model, processor), media = world
    items = [
        lettered("1", "v0", 20.0),
        lettered("2", "v1", 5.0, "A"),
        probe("3_0", "v0", 3.0),
        probe("3_1", "v0", 9.0, "No"),
        lettered("4", "gone", 5.0),
    ]
    with PredictionStore(tmp_path, {"run": 1}) as store:
        rate_items(model, processor, items[:2], media, store, SETTINGS)
        half = read_rows(store.path)
        rate_items(model, processor, items, media, store, SETTINGS)
        assert read_rows(store.path)[:2] == half
    rows = merge(tmp_path, items)
    assert [row["id"] for row in rows] == [item.id for item in items]
    assert [row["frames_seen"] for row in rows] == [20, 5, 3, 9, 0]
    assert rows[4]["prediction"] is None and "missing" in rows[4]["error"]
    one = rows[2]["prediction"]
    assert one["letters"] == one["texts"] and len(one["texts"]) == 2
    counts = tally(items, rows)
    assert list(counts) == ["room", "dark"]
    assert (counts["room"].n_items, counts["room"].n_failed, counts["dark"].n_items) == (3, 1, 2)
    assert counts["room"].accuracy("chance") == pytest.approx(1 / 3)
    for task, places in (("room", (0, 1)), ("dark", (2, 3))):
        for method in METHODS:
            picked = [picks(items[place], rows[place]["prediction"])[method] for place in places]
            right = sum(number == right_option(items[place]) for number, place in zip(picked, places, strict=True))
            assert counts[task].right[method] == right
            assert counts[task].accuracy(method) == right / counts[task].n_items
    asked, given, verdicts = by_method(items, rows)
    assert [(item.tag, item.id) for item in asked] == [(row["tag"], row["id"]) for row in given]
    for method in METHODS:
        mine = [verdict for verdict in verdicts if verdict.tag == f"ovo, {method}"]
        assert [verdict.correct for verdict in mine].count(True) == sum(one.right[method] for one in counts.values())
        assert [verdict.failure for verdict in mine] == [None] * 4 + ["no prediction"]
    with pytest.raises(ValueError, match="ovo 4 has no prediction"):
        tally(items, rows[:4])


def test_another_video_changes_the_ratings(world: tuple[TinyModel, dict[str, Path]], tmp_path: Path) -> None:
    (model, processor), media = world
    items = [lettered("1", "v0", 20.0), lettered("2", "v1", 20.0)]
    rated = []
    for name, files in (("own", media), ("other", shuffled(media))):
        with PredictionStore(tmp_path / name, {}) as store:
            rate_items(model, processor, items, files, store, SETTINGS)
        rated.append([row["prediction"]["texts"] for row in merge(tmp_path / name, items)])
    assert rated[0][0] != rated[1][0] and rated[0][1] != rated[1][1]
    assert len(plan(items, SETTINGS)) == 1
