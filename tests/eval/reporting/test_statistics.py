"""Intervals and tests against numbers that were computed in other ways: SciPy, enumeration, plain loops."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest
from scipy import stats

from flash_vstream.eval.reporting.statistics import mcnemar, ratio_interval, sums_by_group


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (1, 1), (3, 9), (10, 2), (7, 7), (40, 61), (900, 1000)])
def test_mcnemar_is_the_exact_two_sided_binomial_test(first: int, second: int) -> None:
    total = first + second
    expected = stats.binomtest(first, total, 0.5).pvalue if total else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(second, first) == mcnemar(first, second)


@pytest.mark.parametrize(("first", "second"), [(1, 5), (2, 6), (4, 4), (0, 8)])
def test_mcnemar_counts_the_coin_tosses_that_are_as_far_out(first: int, second: int) -> None:
    total = first + second
    tosses = product((0, 1), repeat=total)
    extreme = sum(abs(sum(toss) - total / 2) >= abs(first - total / 2) for toss in tosses)
    assert mcnemar(first, second) == extreme / 2**total


def test_mcnemar_takes_the_counts_of_the_largest_set() -> None:
    p = mcnemar(5000, 5400)
    # The continuity-corrected chi-square test is very near the exact one at such counts.
    assert p == pytest.approx(stats.chi2.sf((400 - 1) ** 2 / 10400, df=1), rel=0.01)
    assert mcnemar(0, 70_000) == 0.0
    with pytest.raises(ValueError, match="negative"):
        mcnemar(-1, 2)


def test_sums_by_group() -> None:
    assert sums_by_group(["b", "a", "b", "c"], [1.0, 2.0, 4.0, 8.0]).tolist() == [5.0, 2.0, 8.0]


def exact_interval(numerators: list[float], denominators: list[float]) -> tuple[float, float]:
    """What the bootstrap approaches: percentiles over every possible resample, each as likely."""
    ratios = [
        sum(numerators[place] for place in drawn) / sum(denominators[place] for place in drawn)
        for drawn in product(range(len(numerators)), repeat=len(numerators))
    ]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def test_the_interval_is_that_of_all_possible_resamples() -> None:
    numerators, denominators = [3.0, 1.0, 0.0, 6.0, 2.0, 5.0], [4.0, 5.0, 3.0, 7.0, 2.0, 9.0]
    found = ratio_interval(np.array(numerators), np.array(denominators), resamples=20_000)
    assert found == pytest.approx(exact_interval(numerators, denominators), abs=0.01)


def test_the_interval_agrees_with_scipy() -> None:
    generator = np.random.default_rng(5)
    counts = generator.integers(1, 20, size=60).astype(float)
    right = np.floor(counts * generator.random(60))
    found = ratio_interval(right, counts, resamples=4000)
    reference = stats.bootstrap(
        (right, counts),
        lambda a, b: a.sum() / b.sum(),
        paired=True,
        vectorized=False,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found == pytest.approx((reference.low, reference.high), abs=0.01)


def test_videos_are_resampled_and_not_questions() -> None:
    """Ten videos of 100 equal answers each say as much as ten answers, not as a thousand."""
    right = np.array([100.0, 0.0] * 5)
    found = ratio_interval(right, np.full(10, 100.0))
    assert found is not None
    assert found == ratio_interval(right / 100, np.ones(10))
    # The mean of ten fair coins: 2 to 8 heads hold 97.9 % of the probability, 3 to 7 hold 89.1 %.
    assert found == pytest.approx((0.2, 0.8))
    assert sum(comb(10, heads) for heads in range(2, 9)) / 2**10 > 0.95


def test_intervals_are_repeatable_and_cover_the_truth() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        shares = generator.beta(2, 2, size=40)  # each video has its own difficulty; the mean is 0.5
        right = generator.binomial(10, shares).astype(float)
        interval = ratio_interval(right, np.full(40, 10.0), resamples=400, seed=trial)
        assert interval == ratio_interval(right, np.full(40, 10.0), resamples=400, seed=trial)
        assert interval is not None
        covered += interval[0] <= 0.5 <= interval[1]
    assert 0.88 <= covered / 200 <= 0.99


def test_no_interval_where_there_is_no_saying() -> None:
    assert ratio_interval(np.array([3.0]), np.array([4.0])) is None
    assert ratio_interval(np.array([]), np.array([])) is None
    assert ratio_interval(np.array([1.0, 0.0]), np.array([1.0, 0.0])) is None


def test_a_paired_difference_is_surer_than_two_accuracies() -> None:
    generator = np.random.default_rng(3)
    first = generator.integers(0, 11, size=50).astype(float)
    second = np.minimum(first + 1, 10)  # one more right in nearly every video
    counts = np.full(50, 10.0)
    found = ratio_interval(second - first, counts)
    assert found is not None
    drawn = np.random.default_rng(9).integers(50, size=(5000, 50))
    low, high = np.percentile((second - first)[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    assert found == pytest.approx((low, high), abs=0.005)
    alone = ratio_interval(first, counts)
    assert alone is not None and alone[1] - alone[0] > 3 * (found[1] - found[0])
    assert found[0] > 0
