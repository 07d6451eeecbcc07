"""Bootstrap intervals over videos, and paired tests between two runs.

Questions about one video are not independent, so whole videos are resampled, with all their questions.
"""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
_CHUNK = 200  # resamples at a time: 3,000 videos in 200 resamples are 5 MB of indices
Interval = tuple[float, float]
Values = NDArray[np.float64]


def sums_by_group(groups: list[str], values: list[float]) -> Values:
    """The sum of the values in each group [G], groups in order of first appearance."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    sums = np.zeros(len(numbers))
    np.add.at(sums, [numbers[name] for name in groups], values)
    return sums


def ratio_interval(
    numerators: Values, denominators: Values, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """Percentile bootstrap interval (95 %) of sum(numerators) / sum(denominators), whole videos resampled.

    Both are sums over the questions of each video, `[V]`. The interval of a paired difference of two runs has their
    differences as numerators. None for fewer than two videos, or if the denominators of a resample sum to 0.
    """
    if len(numerators) < 2:
        return None
    generator = np.random.default_rng(seed)
    ratios = []
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        drawn = generator.integers(len(numerators), size=(count, len(numerators)))  # [chunk, V]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios.append(numerators[drawn].sum(1) / denominators[drawn].sum(1))
    known = np.concatenate(ratios)
    if not np.isfinite(known).all():
        return None
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p of McNemar's exact test, given how many questions only the one and only the other run got right.

    Under the null hypothesis each of these is a fair coin toss. p is 1 if the runs never disagree.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts cannot be negative: {only_first}, {only_second}")
    total = only_first + only_second
    term = tail = 1  # integers: exact, and fast enough for all of MSRVTT-QA
    for number in range(min(only_first, only_second)):
        term = term * (total - number) // (number + 1)
        tail += term
    return min(1.0, 2 * tail / 2**total)
