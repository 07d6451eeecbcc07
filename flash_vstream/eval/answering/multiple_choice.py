"""Multiple choice: the likelihood of every option, by its letter and by its text, from one prompt."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flash_vstream.eval.answering.likelihood import rate_continuations
from flash_vstream.eval.answering.watch import Seen
from flash_vstream.eval.sample import LETTERS, Sample
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor

Ratings = dict[str, list[dict[str, Any]]]


def rate_options(
    model: VStreamForConditionalGeneration, processor: VStreamProcessor, sample: Sample, prompt: str, seen: Seen
) -> Ratings:
    """Rate all options of a sample, running the prompt once: by "letters" and "texts" the fields of a `Likelihood`.

    A probe, whose options are the replies themselves, has no letters: both are of the texts.
    """
    n_options = len(sample.options)
    letters = LETTERS[:n_options] if sample.is_lettered else ""
    rated = rate_continuations(model, processor, prompt, [*letters, *sample.options], [seen])
    fields = [asdict(rating) for rating in rated]
    return {"letters": fields[:n_options], "texts": fields[-n_options:]}
