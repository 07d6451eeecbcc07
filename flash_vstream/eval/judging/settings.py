"""The settings of judging, with their defaults, and the command-line options that set them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flash_vstream.eval.answering.store import RESULTS_ROOT
from flash_vstream.eval.benchmarks import find_benchmark
from flash_vstream.eval.judging.prompt import PROMPT_VERSION
from flash_vstream.eval.sample import Sample
from flash_vstream.options import positive_int

JUDGES = ("auto", "offline", "openai")
_CLIENT = "the openai client retries by itself and follows Retry-After"
REMOVED = {
    "--judge_attempts": _CLIENT,
    "--judge_first_wait_s": _CLIENT,
    "--judge_longest_wait_s": _CLIENT,
    "--judge_timeout_s": "a reply may take 60 s, then the request is retried",
    "--judge_stop_after": "20 failures in a row end the run",
    "--judge_reply_format": "the strictest format that the endpoint accepts is used",
    "--judge_input_price": "--dry_run prints the numbers of tokens",
    "--judge_output_price": "--dry_run prints the numbers of tokens",
}


@dataclass(frozen=True)
class EndpointSettings:
    """A language model as the judge, behind an OpenAI-compatible endpoint.

    Attributes:
        model: The model's dated name; its replies must carry the same name.
        returned_model: The name that its replies carry, if the endpoint uses another one.
        temperature: Of sampling; None leaves it out of the request, for models that refuse it.
        ask_again: Also ask again if the cached reply cannot be used.
        stop_after: This many failures in a row end the run.
    """

    model: str = "gpt-4.1-mini-2025-04-14"
    returned_model: str | None = None
    temperature: float | None = 0.0
    max_tokens: int = 200
    concurrency: int = 8
    ask_again: bool = False
    timeout_s: float = 60.0
    max_retries: int = 5
    stop_after: int = 20

    @property
    def judge_name(self) -> str:
        """The judge's name, which stands in every result."""
        return f"{self.model} (prompt {PROMPT_VERSION})"


@dataclass(frozen=True)
class JudgeSettings:
    """Which judge a run has.

    Attributes:
        judge: "offline"; "openai"; or "auto": offline for the benchmarks whose answers allow it.
        cache: The file of the language model's replies. All results share it by default, so that the same prediction
            for the same question is paid for once.
        max_failures: The largest share of judge failures, 0 to 1, with which results may be quoted.
    """

    judge: str = "auto"
    cache: Path = RESULTS_ROOT / "judge_cache.jsonl"
    max_failures: float = 0.01
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)

    def is_offline(self, samples: Sequence[Sample]) -> bool:
        """Whether the samples of one tag are judged without a language model; multiple choice always is."""
        scorer = find_benchmark(samples[0].tag).scorer
        if self.judge == "auto" or scorer == "choice":
            return scorer != "judge" or all(sample.options for sample in samples)
        return self.judge == "offline"


def add_judge(parser: argparse.ArgumentParser) -> None:
    """The options of every command that judges. The key is no option: it comes from OPENAI_API_KEY."""
    add, default = parser.add_argument_group("judge").add_argument, JudgeSettings()
    endpoint = default.endpoint

    def add_number(name: str, kind: Callable[[str], float | None], help_text: str) -> None:
        value = getattr(endpoint, name)
        add(f"--judge_{name}", type=kind, default=value, metavar="N", help=f"{help_text} (%(default)s)")

    add("--judge", choices=JUDGES, default=default.judge, help="auto: offline where the answers allow it")
    add("--judge_model", default=endpoint.model, metavar="NAME", help="language model, by a dated name (%(default)s)")
    add("--judge_returned_model", metavar="NAME", help="the name that its replies carry, if it is another one")
    add_number("temperature", _temperature, "none: leave it out, for models that refuse it")
    add_number("max_tokens", positive_int, "longest reply")
    add_number("concurrency", positive_int, "requests at the same time")
    add("--judge_ask_again", action="store_true", help="ask again if the cached reply cannot be used")
    add("--judge_cache", type=Path, default=default.cache, metavar="FILE", help="file of the replies (%(default)s)")
    add_max_failures(parser)


def add_max_failures(parser: argparse.ArgumentParser) -> None:
    """--max_judge_failures: from which share of judge failures on a command ends with exit code 1."""
    parser.add_argument(
        "--max_judge_failures",
        type=_share,
        default=JudgeSettings.max_failures,
        metavar="SHARE",
        help="exit with 1 if the judge failed on a larger share of the predictions (%(default)s)",
    )


def judge_settings(options: argparse.Namespace) -> JudgeSettings:
    """The settings that the options of `add_judge` give."""
    endpoint = EndpointSettings(
        model=options.judge_model,
        returned_model=options.judge_returned_model,
        temperature=options.judge_temperature,
        max_tokens=options.judge_max_tokens,
        concurrency=options.judge_concurrency,
        ask_again=options.judge_ask_again,
    )
    return JudgeSettings(options.judge, options.judge_cache, options.max_judge_failures, endpoint)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return share


def _temperature(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)
