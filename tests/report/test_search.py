"""The expected best of n trials, and tie groups."""

from __future__ import annotations

from itertools import product
from statistics import fmean, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora2_bench.report.statistics.search import expected_best, spread_of_best
from lora2_bench.report.statistics.ties import groups_of

SCORES = st.lists(st.floats(-100, 100), min_size=1, max_size=5)


@settings(deadline=None)
@given(SCORES, st.integers(1, 4))
def test_it_is_the_mean_and_spread_over_all_samples_with_replacement(scores: list[float], n: int) -> None:
    best = [max(sample) for sample in product(scores, repeat=n)]
    assert expected_best(scores, n) == pytest.approx(fmean(best), abs=1e-9)
    assert spread_of_best(scores, n) == pytest.approx(pstdev(best), abs=1e-5)


@settings(deadline=None)
@given(SCORES, st.integers(1, 6))
def test_it_rises_with_n_from_the_mean_and_stays_under_the_best(scores: list[float], n: int) -> None:
    assert expected_best(scores, 1) == pytest.approx(fmean(scores), abs=1e-9)
    assert expected_best(scores, n) <= expected_best(scores, n + 1) + 1e-9 <= max(scores) + 2e-9


def test_no_trial_and_no_score_are_refused() -> None:
    with pytest.raises(ValueError, match="n=0 is not possible"):
        expected_best([1.0], 0)
    with pytest.raises(ValueError, match="at least one"):
        expected_best([], 1)


def test_groups_are_by_paired_tests_over_seeds() -> None:
    """`near` is 0.1 below `high` with a spread of 0.5, `low` is 10 below it."""
    noise = [0.5, -0.5, 0.4, -0.6, 0.3, -0.4]
    high = {seed: 80.0 + seed for seed in range(6)}
    near = {seed: value - 0.1 + noise[seed] for seed, value in high.items()}
    low = {seed: value - 10 + noise[seed] / 2 for seed, value in high.items()}
    assert groups_of({"high": {"rte": high}, "near": {"rte": near}, "low": {"rte": low}}) == {
        "high": "a",
        "near": "a",
        "low": "b",
    }
    assert groups_of({"high": {"rte": {0: 1.0}}, "low": {"rte": {0: 0.0}}}) == {"high": "a", "low": "a"}
