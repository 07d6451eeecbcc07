"""Which judge a run has; every default of judging stands here and in EndpointSettings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flash_vstream.eval.answering.identity import RESULTS_ROOT
from flash_vstream.eval.benchmarks.base import BENCHMARKS
from flash_vstream.eval.judging.grading import EndpointSettings
from flash_vstream.eval.sample import Item

JUDGES = ("auto", "offline", "openai")


@dataclass(frozen=True)
class JudgeSettings:
    """judge: "offline"; "openai"; or "auto", offline for the tags whose answers allow it.

    cache: where the replies of "openai" are kept, one file for all results: two runs that give the same answer to the
    same question, such as two memories, pay for it once. max_failures: the share of judge failures that is borne.
    """

    judge: str = "auto"
    cache: Path = RESULTS_ROOT / "judge_cache.jsonl"
    max_failures: float = 0.01
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)

    def __post_init__(self) -> None:
        if self.judge not in JUDGES:
            raise ValueError(f"judge {self.judge!r} is unknown: choose one of {', '.join(JUDGES)}")
        if not 0 <= self.max_failures <= 1:
            raise ValueError(f"the share of failures that is borne is {self.max_failures}: give 0 to 1")

    def is_offline(self, items: Sequence[Item]) -> bool:
        """Whether the items of one tag are judged without a language model."""
        if self.judge != "auto":
            return self.judge == "offline"
        benchmark = BENCHMARKS.get(items[0].tag)
        return all(item.options for item in items) or (benchmark is not None and benchmark.score == "exact")
