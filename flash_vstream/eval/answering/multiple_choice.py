"""Multiple choice about a stream: how options are asked, how they are rated, and which one each way of rating picks.

Two kinds of items: lettered ones, whose answer is the letter of one of their options, and probes, whose options are the
replies themselves (Yes and No, or numbers). Each is scored in five ways from one look at the video: by the reply that
is generated, and by the likelihood of each letter and of each option's text, summed or as the mean of its tokens. For a
probe letter and text are the same.
"""

from __future__ import annotations

import string
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from flash_vstream.eval.answering.generate import (
    PredictSettings,
    checked_prompt,
    generate,
    look,
    plan,
    result_row,
    shard,
)
from flash_vstream.eval.answering.likelihood import Likelihood, rate_continuations
from flash_vstream.eval.answering.store import PredictionStore, Row, key_of
from flash_vstream.eval.answering.watch import Seen
from flash_vstream.eval.judging.exact_match import chosen_option, normalise
from flash_vstream.eval.sample import Item
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor

LETTERS = string.ascii_uppercase
INSTRUCTION = "Answer with the letter of the right option and nothing else."
METHODS = ("generated", "letter, sum", "letter, mean", "text, sum", "text, mean")
MAX_NEW_TOKENS = 16  # a letter, a number or a word, with room for "The answer is"


@dataclass
class Tally:
    """Counts over the items of one task. right: by method; chance: the sum of 1 / options; unclear: replies that name
    no option, which count as wrong; failed: items without a reply, wrong in the accuracy over all."""

    n_items: int = 0
    n_failed: int = 0
    n_unclear: int = 0
    chance: float = 0.0
    right: Counter[str] = field(default_factory=Counter)

    def accuracy(self, method: str) -> float:
        """Share of right ones among all items, failures being wrong; method "chance" is that of a blind guess."""
        return (self.chance if method == "chance" else self.right[method]) / self.n_items


def lettered_question(question: str, options: Sequence[str]) -> str:
    """The text that asks for one of the options by its letter."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question, *lines, INSTRUCTION])


def is_lettered(item: Item) -> bool:
    return len(item.answer) == 1 and item.answer in LETTERS[: len(item.options)]


def right_option(item: Item) -> int:
    """The number of the right option, from 0. Raises ValueError where the answer is none of them."""
    if is_lettered(item):
        return LETTERS.index(item.answer)
    if item.answer not in item.options:
        raise ValueError(f"{item.tag} {item.id}: the answer {item.answer!r} is none of its options; mend the item")
    return item.options.index(item.answer)


def named_option(item: Item, reply: str) -> int | None:
    """The option that a generated reply names, from 0; None where it names none."""
    if is_lettered(item):
        return chosen_option(item.options, reply)
    places = {normalise(option): number for number, option in enumerate(item.options)}
    return next((places[word] for word in normalise(reply).split() if word in places), None)


def picks(item: Item, prediction: Mapping[str, Any]) -> dict[str, int | None]:
    """The option that each of METHODS picks, given what `rate_items` stored."""
    picked: dict[str, int | None] = {"generated": named_option(item, prediction["reply"])}
    for kind, ratings in (("letter", prediction["letters"]), ("text", prediction["texts"])):
        rated = [Likelihood(**rating) for rating in ratings]
        numbers = range(len(rated))
        picked[f"{kind}, sum"] = max(numbers, key=lambda number, rated=rated: rated[number].log_prob)  # type: ignore[misc]
        picked[f"{kind}, mean"] = max(numbers, key=lambda number, rated=rated: rated[number].mean)  # type: ignore[misc]
    return picked


def rate_items(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    items: Sequence[Item],
    media: Mapping[str, Path],
    store: PredictionStore,
    settings: PredictSettings,
    rank: int = 0,
    world_size: int = 1,
) -> None:
    """Rate this process's share of the items into `store`, each video watched once; what is there already is left out.

    The `prediction` of a row is {"reply": text, "letters": [Likelihood], "texts": [Likelihood]}, one for each option;
    a row without one says why in `error`. Raises ValueError for a memory that cannot answer while a video runs.
    """
    if model.config.memory.mode == "published":
        raise ValueError(
            "the published memory is offline only and cannot answer while a video runs: give --memory star"
        )
    batches = plan(shard(items, rank, world_size), settings)
    left = [batch for batch in batches if any(key_of(item) not in store for item in batch)]
    n_items, n_left = sum(map(len, batches)), sum(map(len, left))
    asked = look(model, processor, [item for batch in left for item in batch], media, settings)
    label = f"rating {items[0].tag}"
    with tqdm(total=n_items, initial=n_items - n_left, desc=label, unit="question", disable=rank > 0) as progress:
        for batch in left:
            rows = rate_batch(model, processor, list(islice(asked, len(batch))), settings)
            store.append(row for row in rows if (row["tag"], row["id"]) not in store)
            progress.update(len(batch))


def rate_batch(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    asked: Sequence[tuple[Item, Seen | str]],
    settings: PredictSettings,
) -> list[Row]:
    """The rows of some items, each with what was seen, or the reason why nothing was. `seconds`: shared out equally."""
    begun = time.perf_counter()
    rows: dict[str, Row] = {}
    ready: list[tuple[Item, Seen, str]] = []
    for item, seen in asked:
        try:
            if isinstance(seen, str):
                raise ValueError(seen)
            ready.append((item, seen, checked_prompt(model, processor, item, seen)))
        except ValueError as error:
            n_frames = 0 if isinstance(seen, str) else seen.n_frames
            rows[item.id] = result_row(item, None, str(error), n_frames, 0.0)
    if ready:
        prompts, memories = [prompt for *_, prompt in ready], [seen for _, seen, _ in ready]
        replies = generate(model, processor, prompts, memories, settings.max_new_tokens)
        for (item, seen, prompt), reply in zip(ready, replies, strict=True):
            prediction = {"reply": reply} | _ratings(model, processor, item, prompt, seen)
            rows[item.id] = result_row(item, prediction, None, seen.n_frames, 0.0)
    each = round((time.perf_counter() - begun) / len(asked), 4)
    return [rows[item.id] | {"seconds": each} for item, _ in asked]


def _ratings(
    model: VStreamForConditionalGeneration, processor: VStreamProcessor, item: Item, prompt: str, seen: Seen
) -> dict[str, list[dict[str, Any]]]:
    """The likelihood of each letter and of each text, rated together so that the prompt is run once."""
    n_options = len(item.options)
    letters = list(LETTERS[:n_options]) if is_lettered(item) else []
    rated = [
        asdict(rating) for rating in rate_continuations(model, processor, prompt, [*letters, *item.options], [seen])
    ]
    return {"letters": rated[:n_options], "texts": rated[-n_options:]}


def tally(items: Sequence[Item], rows: Iterable[Row]) -> dict[str, Tally]:
    """Counts by task (the items' answer_type), in the order of the items. ValueError for an item without a row."""
    by_id = {row["id"]: row for row in rows}
    counts: dict[str, Tally] = {}
    for item in items:
        if item.id not in by_id:
            raise ValueError(f"{item.tag} {item.id} has no prediction: run the same command again, it goes on")
        task = counts.setdefault(item.answer_type, Tally())
        task.n_items += 1
        task.chance += 1 / len(item.options)
        prediction = by_id[item.id]["prediction"]
        if prediction is None:
            task.n_failed += 1
            continue
        picked = picks(item, prediction)
        task.n_unclear += picked["generated"] is None
        task.right.update(method for method, number in picked.items() if number == right_option(item))
    return counts
