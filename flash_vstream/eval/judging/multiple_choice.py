"""Which option of a multiple-choice question a prediction chooses: by its text, or by the likelihoods of the options.

Samples come in two kinds. Lettered ones have a letter as their answer. Probes have the replies themselves as options:
Yes and No, or numbers. A prediction with `ratings` is scored in five ways (`METHODS`): by the generated reply, and by
the log-probability of each letter and of each option's text, summed over its tokens or as their mean. Benchmarks whose
own script reads replies by a rule of its own have a sixth way (`OFFICIAL`).
"""

from __future__ import annotations

from flash_vstream.eval.benchmarks import find_benchmark
from flash_vstream.eval.judging.options import named_option, right_option
from flash_vstream.eval.sample import NO_PREDICTION, Sample, Verdict

NAME = "right option"
GENERATED = "generated"
OFFICIAL = "generated, official reading"
METHODS = (GENERATED, "letter, sum", "letter, mean", "text, sum", "text, mean")


def methods_of(tag: str) -> tuple[str, ...]:
    """The ways in which the samples of a tag are scored."""
    if find_benchmark(tag).official_rule is None:
        return METHODS
    return (GENERATED, OFFICIAL, *METHODS[1:])


def verdict_by(method: str, sample: Sample) -> Verdict:
    """The verdict by one of `methods_of` on a sample whose prediction has ratings, or is missing."""
    if sample.reply is None:
        return Verdict(None, None, NO_PREDICTION, NAME)
    if method == OFFICIAL:
        rule = find_benchmark(sample.tag).official_rule
        assert rule is not None
        return Verdict(rule(sample, sample.reply), None, None, NAME)
    return Verdict(picks(sample)[method] == right_option(sample), None, None, NAME)


def picks(sample: Sample) -> dict[str, int | None]:
    """The number of the option, from 0, that each of `METHODS` picks; None if the reply names no option."""
    assert sample.prediction is not None and sample.prediction.ratings is not None and sample.reply is not None
    picked: dict[str, int | None] = {GENERATED: named_option(sample, sample.reply)}
    for kind in ("letter", "text"):
        ratings = sample.prediction.ratings[f"{kind}s"]
        for name, values in (
            ("sum", [rating["log_prob"] for rating in ratings]),
            ("mean", [rating["log_prob"] / rating["n_tokens"] for rating in ratings]),
        ):
            picked[f"{kind}, {name}"] = values.index(max(values))
    return picked
