"""What the printed intervals and tests promise, on simulated experiments: coverage, false alarms and power.

Scores are drawn as runs give them: tasks of unlike spread, seeds paired between methods, and a part of each score that
a seed gives to all of its tasks. Every bound is four standard errors of the binomial: other random numbers of a later
NumPy pass, and one degree of freedom too many does not.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from lora2_bench.report.statistics.intervals import averages, mean_interval, prediction_interval
from lora2_bench.report.statistics.power import detectable_difference, seeds_needed
from lora2_bench.report.statistics.significance import holm, non_inferiority_test, sign_flip_test, t_test

pytestmark = pytest.mark.slow  # trains or simulates much

TRIALS = 4000
TASKS = 8
CENTRES = np.linspace(60, 95, TASKS)
SPREADS = np.linspace(0.2, 2.0, TASKS)  # points: RTE's seeds differ ten times as much as QQP's
Floats = NDArray[np.float64]


def experiments(trials: int, seeds: int, *, together: float = 0.6, seed: int = 0) -> Floats:
    """Scores of one method, (trials, tasks, seeds); `together` is the sd of what a seed's tasks have in common."""
    rng = np.random.default_rng(seed)
    own = rng.normal(CENTRES[:, None], SPREADS[:, None], (trials, TASKS, seeds))
    common: Floats = own + rng.normal(0, together, (trials, 1, seeds))
    return common


def per_seed(scores: Floats) -> list[float]:
    """The averages over tasks of (tasks, seeds), as tables take them."""
    return list(averages({f"task{at}": dict(enumerate(runs)) for at, runs in enumerate(scores)}).values())


def is_share(found: float, expected: float, trials: int = TRIALS) -> bool:
    """Whether a share of the trials is the expected one within its binomial error."""
    return bool(abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / trials))


@pytest.mark.parametrize("seeds", [2, 5, 6])
def test_the_interval_of_one_task_covers_95_percent(seeds: int) -> None:
    drawn = np.random.default_rng(1).normal(80, 1.5, (TRIALS, seeds + 1))
    means = [mean_interval(scores) for scores in drawn[:, :-1]]
    further = [prediction_interval(scores) for scores in drawn[:, :-1]]
    assert is_share(np.mean([one.low <= 80 <= one.high for one in means]), 0.95)
    assert is_share(np.mean([one.low <= x <= one.high for one, x in zip(further, drawn[:, -1], strict=True)]), 0.95)


@pytest.mark.parametrize("together", [0.0, 0.6])
@pytest.mark.parametrize("seeds", [5, 6])
def test_the_interval_of_the_average_covers_95_percent(seeds: int, together: float) -> None:
    found = [mean_interval(per_seed(scores)) for scores in experiments(TRIALS, seeds, together=together)]
    assert is_share(np.mean([one.low <= CENTRES.mean() <= one.high for one in found]), 0.95)


def test_the_tasks_own_variances_would_not_cover_where_seeds_move_tasks_together() -> None:
    scores = experiments(TRIALS, 6)
    errors = np.sqrt(scores.var(axis=2, ddof=1).sum(axis=1) / 6) / TASKS
    parts = scores.var(axis=2, ddof=1)
    degrees = parts.sum(axis=1) ** 2 / (parts**2 / 5).sum(axis=1)  # Welch and Satterthwaite
    inside = np.abs(scores.mean(axis=(1, 2)) - CENTRES.mean()) <= special.stdtrit(degrees, 0.975) * errors
    assert np.mean(inside) < 0.85


@pytest.mark.parametrize("seeds", [5, 6])
def test_with_two_methods_alike_each_test_alarms_in_5_percent(seeds: int) -> None:
    # What a seed gives to both methods cancels in the pairs; what it gives to one of them does not.
    differences = experiments(TRIALS, seeds, seed=2) - experiments(TRIALS, seeds, seed=3)
    averaged = [per_seed(one) for one in differences]
    assert is_share(np.mean([t_test(one) <= 0.05 for one in differences[:, 0]]), 0.05)
    assert is_share(np.mean([t_test(one) <= 0.05 for one in averaged]), 0.05)
    # All signs are alike in 2 of 2^n cases: at n = 5 the test cannot reach 0.05, at n = 6 it does in 1 of 32.
    flips = np.mean([sign_flip_test(one) <= 0.05 for one in averaged])
    assert flips == 0 if seeds == 5 else is_share(flips, 2 / 2**6)


def table_of_alike_methods(trial: Floats) -> list[float]:
    """The t test's p of every method's average against the first one's: (methods, tasks, seeds)."""
    return [p for other in trial[1:] if (p := t_test(per_seed(trial[0] - other))) is not None]


def test_holm_keeps_a_whole_table_of_alike_methods_under_5_percent() -> None:
    methods, trials = 9, 1500
    drawn = np.stack([experiments(trials, 6, seed=10 + at) for at in range(methods)], axis=1)
    ps = [table_of_alike_methods(trial) for trial in drawn]
    alarms = np.mean([min(holm(row)) <= 0.05 for row in ps])
    unadjusted = np.mean([min(row) <= 0.05 for row in ps])
    # All are set against one method, so the tests rise and fall together, and Holm is on the safe side.
    assert alarms < 0.05 + 4 * np.sqrt(0.05 * 0.95 / trials)
    assert unadjusted > 0.15


def test_holm_of_independent_tests_alarms_in_5_percent() -> None:
    ps = np.random.default_rng(4).random((TRIALS, 8))
    assert is_share(np.mean([min(holm(list(row))) <= 0.05 for row in ps]), 1 - (1 - 0.05 / 8) ** 8)


def test_holm_also_keeps_the_others_where_some_differences_are_real() -> None:
    ps = np.random.default_rng(5).random((TRIALS, 8))
    ps[:, :3] = 1e-9
    assert is_share(np.mean([min(holm(list(row))[3:]) <= 0.05 for row in ps]), 1 - (1 - 0.05 / 5) ** 5)


@pytest.mark.parametrize("seeds", [5, 6])
def test_non_inferiority_errs_in_2_5_percent_at_the_margin(seeds: int) -> None:
    drawn = np.random.default_rng(6).normal(-0.5, 0.4, (TRIALS, seeds))
    assert is_share(np.mean([non_inferiority_test(one, 0.5) < 0.025 for one in drawn]), 0.025)


@pytest.mark.parametrize(("difference", "sd"), [(1.0, 1.0), (1.83, 0.9), (0.5, 0.6)])
def test_seeds_needed_keep_their_promise(difference: float, sd: float) -> None:
    n = seeds_needed(difference, sd)
    assert n is not None
    rng = np.random.default_rng(7)
    power = {
        pairs: np.mean([t_test(one) < 0.05 and one.mean() > 0 for one in rng.normal(difference, sd, (TRIALS, pairs))])
        for pairs in (n - 1, n)
    }
    slack = 4 * np.sqrt(0.8 * 0.2 / TRIALS)
    assert power[n] > 0.8 - slack
    assert power[n - 1] < 0.8 + slack


def test_what_six_pairs_detect_they_find_in_80_percent() -> None:
    difference = detectable_difference(1.2, 6)
    assert difference is not None
    drawn = np.random.default_rng(8).normal(difference, 1.2, (TRIALS, 6))
    assert is_share(np.mean([t_test(one) < 0.05 and one.mean() > 0 for one in drawn]), 0.8)


def test_seeds_needed_of_the_margin_show_equal_methods_to_be_no_worse() -> None:
    n = seeds_needed(0.5, 0.4)
    assert n is not None
    drawn = np.random.default_rng(9).normal(0, 0.4, (TRIALS, n))
    power = np.mean([non_inferiority_test(one, 0.5) < 0.025 for one in drawn])
    assert power > 0.8 - 4 * np.sqrt(0.8 * 0.2 / TRIALS)
