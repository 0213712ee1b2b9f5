"""Statistics: properties, and slow loops or SciPy as oracles."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lora2_bench.report.statistics.intervals import (
    bootstrap_interval,
    interquartile_mean,
    mean_interval,
    prediction_interval,
)
from lora2_bench.report.statistics.power import detectable_difference, seeds_needed
from lora2_bench.report.statistics.significance import mcnemar, pair, sign_flip_test
from lora2_bench.report.statistics.verdict import (
    NOT_COMPARABLE,
    NOT_REPRODUCED,
    REPRODUCED,
    VERDICTS,
    WITHIN_NOISE,
    verdict,
)

points = st.integers(-1000, 1000).map(lambda value: value / 10)
runs = st.lists(points, min_size=2, max_size=8)
tables = st.dictionaries(st.sampled_from(["cola", "mrpc", "rte", "stsb"]), runs, min_size=1)
few = settings(max_examples=40, deadline=None)


# Intervals


@few
@given(tables)
def test_every_interval_contains_its_estimate_and_reports_seeds(scores: dict[str, list[float]]) -> None:
    boot = bootstrap_interval(scores, resamples=500)
    for interval in (boot, mean_interval(scores), prediction_interval(scores)):
        assert interval.estimate == pytest.approx(np.mean([np.mean(values) for values in scores.values()]))
        assert interval.low - 1e-9 <= interval.estimate <= interval.high + 1e-9
        assert interval.seeds == {task: len(values) for task, values in scores.items()}
        assert interval.is_balanced == (len({len(values) for values in scores.values()}) == 1)
    assert prediction_interval(scores).half_width >= mean_interval(scores).half_width


@few
@given(tables, st.integers(-50, 50), st.sampled_from([0.5, 2.0, 10.0]), st.sampled_from(["mean", "interquartile_mean"]))
def test_intervals_shift_and_scale_with_the_scores(scores, shift, scale, statistic) -> None:
    moved = {task: [scale * value + shift for value in values] for task, values in scores.items()}
    functions = [
        lambda table: bootstrap_interval(table, statistic, resamples=200, seed=3),
        mean_interval,
        prediction_interval,
    ]
    for function in functions:
        one, other = function(scores), function(moved)
        for name in ("estimate", "low", "high"):
            assert getattr(other, name) == pytest.approx(scale * getattr(one, name) + shift, abs=1e-6)


@few
@given(tables, st.integers(0, 5))
def test_a_seed_gives_the_same_numbers_in_any_order_of_tasks(scores, seed) -> None:
    backwards = dict(reversed(scores.items()))
    assert bootstrap_interval(scores, seed=seed) == bootstrap_interval(backwards, seed=seed)


def test_another_seed_gives_other_numbers() -> None:
    scores = {"rte": [1.0, 2.5, 4.0, 8.0, 9.5]}
    assert len({bootstrap_interval(scores, resamples=100, seed=seed).low for seed in range(8)}) > 1


def test_one_seed_has_no_interval() -> None:
    for function in (bootstrap_interval, mean_interval, prediction_interval):
        interval = function({"rte": [80.0], "cola": [60.0, 62.0]})
        assert (interval.estimate, interval.low, interval.high) == (70.5, None, None)
        assert interval.half_width == math.inf


def test_tasks_weigh_alike_whatever_their_seeds() -> None:
    scores = {"rte": [0.0] * 9, "cola": [10.0] * 3}
    assert bootstrap_interval(scores, "mean").estimate == pytest.approx(5)
    assert bootstrap_interval(scores, "interquartile_mean").estimate == pytest.approx(5)


def test_the_bootstrap_resamples_within_tasks() -> None:
    # Nothing varies within a task: resampling over tasks too would give a wide interval.
    interval = bootstrap_interval({"rte": [0.0, 0.0], "cola": [90.0, 90.0]})
    assert (interval.low, interval.high) == (45, 45)


def test_the_bootstrap_is_that_of_scipy() -> None:
    values = np.random.default_rng(1).normal(80, 2, 12)
    mine = bootstrap_interval({"rte": values}, resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=2).confidence_interval
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)


def test_coverage_on_simulated_runs() -> None:
    rng = np.random.default_rng(0)
    centres = np.arange(8) * 5.0
    inside = {"bootstrap": 0, "mean": 0, "prediction": 0}
    trials = 300
    for trial in range(trials):
        scores = {f"task{task}": rng.normal(centre, 1 + task / 4, 10) for task, centre in enumerate(centres)}
        further = np.mean([rng.normal(centre, 1 + task / 4) for task, centre in enumerate(centres)])
        for name, interval, value in (
            ("bootstrap", bootstrap_interval(scores, resamples=400, seed=trial), centres.mean()),
            ("mean", mean_interval(scores), centres.mean()),
            ("prediction", prediction_interval(scores), further),
        ):
            inside[name] += interval.low <= value <= interval.high
    assert 0.87 * trials <= inside["bootstrap"] <= 0.97 * trials  # too narrow by √((n - 1) / n), as documented
    assert 0.91 * trials <= inside["mean"] <= 0.99 * trials
    assert 0.91 * trials <= inside["prediction"] <= 0.99 * trials


def test_student_intervals_of_one_task_are_the_textbook_ones() -> None:
    values = [80.0, 82.0, 87.0, 84.0]
    low, high = stats.t.interval(0.9, 3, np.mean(values), stats.sem(values))
    interval = mean_interval({"rte": values}, level=0.9)
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert prediction_interval({"rte": values}, level=0.9).half_width == pytest.approx((high - low) / 2 * 5**0.5)


@few
@given(st.lists(st.lists(points, min_size=8, max_size=8), min_size=1, max_size=5))
def test_the_interquartile_mean_of_eight_tasks_is_the_trimmed_mean(scores: list[list[float]]) -> None:
    assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None), abs=1e-9)


def test_the_interquartile_mean_counts_edges_in_part() -> None:
    # Of three scores the middle half is the whole second, and a quarter of each neighbour.
    assert interquartile_mean([0.0, 1.0, 8.0]) == pytest.approx((0.25 * 0 + 1 + 0.25 * 8) / 1.5)


@pytest.mark.parametrize("scores", [{}, {"rte": []}, {"rte": [1.0, math.nan]}, {"rte": [[1.0]]}])
def test_impossible_scores_are_one_line_errors(scores) -> None:
    for function in (bootstrap_interval, mean_interval, prediction_interval):
        with pytest.raises(ValueError, match=r"^scores of [^\n]+$"):
            function(scores)


def test_impossible_settings_are_one_line_errors() -> None:
    scores = {"rte": [1.0, 2.0]}
    for call in (
        lambda: bootstrap_interval(scores, level=1.0),
        lambda: bootstrap_interval(scores, resamples=0),
        lambda: prediction_interval(scores, level=0.0),
        lambda: interquartile_mean([]),
        lambda: sign_flip_test([]),
        lambda: sign_flip_test([math.inf]),
        lambda: mcnemar([True], [True, False]),
        lambda: detectable_difference(-1.0, 5),
        lambda: detectable_difference(1.0, 5, alpha=0.0),
        lambda: seeds_needed(1.0, 1.0, power=0.05),
        lambda: verdict(80.0, 2, scores, margin=-1.0),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            call()


# Pairs


def test_pairs_are_matched_by_task_and_seed_and_the_rest_is_counted() -> None:
    pairs = pair(
        {("rte", 1): 80.0, ("rte", 0): 81.0, ("cola", 0): 60.0, ("cola", 7): 1.0},
        {("rte", 0): 79.0, ("rte", 1): 80.5, ("cola", 0): 59.0, ("qnli", 0): 2.0},
    )
    assert pairs.keys == (("cola", 0), ("rte", 0), ("rte", 1))
    assert pairs.differences.tolist() == [1.0, 2.0, -0.5]
    assert pairs.unpaired == 2
    assert {task: values.tolist() for task, values in pairs.by_task().items()} == {"cola": [1.0], "rte": [2.0, -0.5]}


def test_without_a_common_seed_there_are_no_pairs() -> None:
    pairs = pair({("rte", 0): 80.0}, {("rte", 1): 80.0})
    assert (pairs.keys, pairs.differences.size, pairs.unpaired, pairs.by_task()) == ((), 0, 2, {})


def enumerated(differences: list[float]) -> float:
    """The sign-flip test by its definition; differences are whole numbers, so that sums are exact."""
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    return sum(value >= abs(sum(differences)) for value in sums) / len(sums)


@few
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=9))
def test_the_exact_sign_flip_test_is_the_enumeration(differences: list[int]) -> None:
    p = sign_flip_test(differences)
    assert p == enumerated(differences)
    assert 2.0 ** (1 - len(differences)) <= p <= 1
    assert sign_flip_test([-value for value in differences]) == p


@few
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=9), st.sampled_from([0.1, 1 / 3, 7.0]))
def test_the_sign_flip_test_knows_ties_in_floating_point(differences: list[int], scale: float) -> None:
    assert sign_flip_test([scale * value for value in differences]) == enumerated(differences)


def test_the_monte_carlo_test_is_seeded_near_the_exact_one_and_never_zero() -> None:
    rng = np.random.default_rng(0)
    differences = rng.integers(-5, 8, 20)
    total = abs(int(differences.sum()))
    chances = np.array([1.0])  # of the sum of signed values, by convolution
    for value in np.abs(differences):
        step = np.zeros(2 * value + 1)
        step[0] += 0.5
        step[-1] += 0.5
        chances = np.convolve(chances, step)
    reach = np.abs(np.arange(chances.size) - chances.size // 2) >= total
    p = sign_flip_test(differences, seed=1)
    assert p == sign_flip_test(differences, seed=1)
    assert p == pytest.approx(chances[reach].sum(), abs=0.02)
    assert sign_flip_test(np.ones(60), resamples=999) == 1 / 1000


def test_sixteen_pairs_are_enumerated() -> None:
    assert sign_flip_test(np.ones(16)) == 2 / 2**16


@few
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_of_one_run_is_the_binomial_test(examples: list[tuple[bool, bool]]) -> None:
    a, b = np.array(examples).T
    result = mcnemar(a, b)
    assert (result.only_a, result.only_b) == (sum(a & ~b), sum(b & ~a))
    discordant = result.only_a + result.only_b
    assert result.p == pytest.approx(stats.binomtest(result.only_a, discordant).pvalue if discordant else 1.0)


@few
@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, 3)] * n), min_size=1, max_size=7)))
def test_mcnemar_over_seeds_flips_each_example_as_a_whole(examples: list[tuple[int, ...]]) -> None:
    codes = np.array(examples).T  # (seeds, examples): bit 0 for a, bit 1 for b
    a, b = codes & 1 == 1, codes & 2 == 2
    result = mcnemar(a, b)
    assert (result.only_a, result.only_b) == (np.sum(codes == 1), np.sum(codes == 2))
    assert result.p == pytest.approx(enumerated((a.sum(axis=0) - b.sum(axis=0)).tolist()))


def test_mcnemar_takes_copies_of_a_seed_for_no_evidence() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(400) < 0.8, rng.random(400) < 0.7
    assert mcnemar(np.tile(a, (5, 1)), np.tile(b, (5, 1))).p == mcnemar(a, b).p


# Design


@few
@given(st.integers(2, 60), st.floats(0.05, 10), st.sampled_from([0.01, 0.05, 0.1]), st.sampled_from([0.5, 0.8, 0.9]))
def test_seeds_needed_is_the_inverse_of_detectable_difference(n, sd, alpha, power) -> None:
    difference = detectable_difference(sd, n, alpha, power)
    assert seeds_needed(difference, sd, alpha, power) == n
    assert seeds_needed(-difference, sd, alpha, power) == n
    assert seeds_needed(0.99 * difference, sd, alpha, power) > n


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_the_detectable_difference_has_the_power(n: int) -> None:
    difference = detectable_difference(2.0, n)
    shift = difference / 2.0 * math.sqrt(n)
    assert stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, shift) == pytest.approx(0.8)
    drawn = np.random.default_rng(0).normal(difference, 2.0, (20_000, n))
    assert np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.02)


def test_many_pairs_reach_the_normal_approximation_without_a_step() -> None:
    below, above = detectable_difference(1.0, 100_000), detectable_difference(1.0, 100_001)
    assert above < below == pytest.approx(above, rel=1e-4)
    assert seeds_needed(0.001, 1.0) == pytest.approx((1.959964 + 0.841621) ** 2 * 1e6, rel=1e-4)


def test_where_nothing_can_be_said() -> None:
    assert detectable_difference(1.0, 1) is None
    assert seeds_needed(0.0, 1.0) is None
    assert detectable_difference(0.0, 5) == 0
    assert seeds_needed(0.5, 0.0) == 2
    assert seeds_needed(1e9, 1.0) == 2


# Verdicts


@few
@given(
    st.none() | points,
    st.integers(0, 2),
    st.dictionaries(st.sampled_from(["cola", "rte"]), st.lists(points, min_size=1, max_size=6)),
    st.lists(st.just("another backbone"), max_size=1),
)
def test_exactly_one_verdict_applies(printed, digits, scores, obstacles) -> None:
    found = verdict(printed, digits, scores, obstacles=obstacles)
    comparable = bool(not obstacles and printed is not None and scores and min(map(len, scores.values())) > 1)
    rules = {NOT_COMPARABLE: not comparable}
    if comparable:
        mean, further = mean_interval(scores), prediction_interval(scores)
        distance = max(0.0, abs(mean.estimate - printed) - 0.5 * 10**-digits - 1e-9)
        outside = distance > further.half_width
        near = distance + mean.half_width <= 1
        rules[NOT_REPRODUCED] = outside
        rules[REPRODUCED] = not outside and near
        rules[WITHIN_NOISE] = not outside and not near
        assert found.difference == pytest.approx(mean.estimate - printed)
    assert [word for word, applies in rules.items() if applies] == [found.word]
    assert found.word in VERDICTS
    assert found.reason
    assert "\n" not in found.reason


STEADY = {"rte": [89.4, 89.6, 89.5, 89.5, 89.7]}
LOOSE = {"rte": [86.0, 91.0, 88.5, 90.5, 87.0]}


@pytest.mark.parametrize(
    ("printed", "scores", "word"),
    [
        (89.53, STEADY, REPRODUCED),
        (90.5, STEADY, NOT_REPRODUCED),
        (89.53, LOOSE, WITHIN_NOISE),
        (98.0, LOOSE, NOT_REPRODUCED),
        (89.53, {"rte": [89.53]}, NOT_COMPARABLE),
        (None, STEADY, NOT_COMPARABLE),
        (89.53, {}, NOT_COMPARABLE),
    ],
)
def test_verdicts_by_example(printed, scores, word) -> None:
    assert verdict(printed, 2, scores).word == word


def test_a_printed_figure_stands_for_what_rounds_to_it() -> None:
    scores = {"rte": [89.525, 89.525]}  # no spread: nothing but rounding forgives a difference
    assert verdict(89.53, 2, scores).word == REPRODUCED
    assert verdict(89.54, 2, scores).word == NOT_REPRODUCED
    assert verdict(89.5, 1, scores).word == REPRODUCED


def test_all_obstacles_are_named() -> None:
    found = verdict(None, 2, {"rte": [80.0], "cola": [60.0, 61.0]}, obstacles=["generated data, not GLUE"])
    assert found.word == NOT_COMPARABLE
    for reason in ("generated data", "one seed only (rte)", "prints no figure"):
        assert reason in found.reason
