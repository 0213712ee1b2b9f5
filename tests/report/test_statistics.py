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
    averages,
    interquartile_mean,
    mean_interval,
    prediction_interval,
    spread,
)
from lora2_bench.report.statistics.power import detectable_difference, seeds_needed
from lora2_bench.report.statistics.significance import (
    holm,
    mcnemar,
    non_inferiority_test,
    pair,
    sign_flip_test,
    t_test,
)
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
few = settings(max_examples=40, deadline=None)


# Intervals


@few
@given(runs)
def test_every_interval_contains_its_mean(scores: list[float]) -> None:
    mean, further = mean_interval(scores), prediction_interval(scores)
    for interval in (mean, further):
        assert interval.estimate == pytest.approx(np.mean(scores))
        assert interval.n == len(scores)
        assert (interval.low is None) == (max(scores) == min(scores))
        assert interval.low is None or interval.low < interval.estimate < interval.high
    assert further.half_width >= mean.half_width


@few
@given(runs, st.integers(-50, 50), st.sampled_from([0.5, 2.0, 10.0]))
def test_intervals_shift_and_scale_with_the_scores(scores, shift, scale) -> None:
    for function in (mean_interval, prediction_interval):
        one, other = function(scores), function([scale * value + shift for value in scores])
        assert other.estimate == pytest.approx(scale * one.estimate + shift, abs=1e-6)
        assert other.half_width == pytest.approx(scale * one.half_width, abs=1e-6)


@pytest.mark.parametrize("scores", [[80.0], [80.0, 80.0], [80.0, 80.0 + 1e-13, 80.0]])
def test_a_spread_that_was_not_seen_gives_no_interval_and_no_t_test(scores: list[float]) -> None:
    assert spread(scores) is None
    for function in (mean_interval, prediction_interval):
        interval = function(scores)
        assert (interval.low, interval.high, interval.half_width) == (None, None, math.inf)
    assert (t_test(scores), non_inferiority_test(scores, 1.0)) == (None, None)


def test_the_intervals_are_the_textbook_ones() -> None:
    values = [80.0, 82.0, 87.0, 84.0]
    low, high = stats.t.interval(0.9, 3, np.mean(values), stats.sem(values))
    interval = mean_interval(values, level=0.9)
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert prediction_interval(values, level=0.9).half_width == pytest.approx((high - low) / 2 * 5**0.5)


def test_an_average_is_one_number_per_seed_that_every_task_has() -> None:
    scores = {"rte": {0: 80.0, 1: 82.0, 3: 90.0}, "cola": {1: 60.0, 0: 50.0, 2: 0.0}}
    assert averages(scores) == {0: 65.0, 1: 71.0}
    assert averages({"rte": {0: 1.0}, "cola": {1: 1.0}}) == {}


@few
@given(st.lists(points, min_size=8, max_size=8))
def test_the_interquartile_mean_of_eight_tasks_is_the_trimmed_mean(scores: list[float]) -> None:
    assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25), abs=1e-9)


def test_the_interquartile_mean_counts_edges_in_part() -> None:
    # Of three scores the middle half is the whole second, and a quarter of each neighbour.
    assert interquartile_mean([0.0, 1.0, 8.0]) == pytest.approx((0.25 * 0 + 1 + 0.25 * 8) / 1.5)


@pytest.mark.parametrize("scores", [[], [1.0, math.nan], [[1.0]]])
def test_impossible_scores_are_one_line_errors(scores) -> None:
    for function in (mean_interval, prediction_interval, spread, t_test, interquartile_mean):
        with pytest.raises(ValueError, match=r"^scores must be [^\n]+$"):
            function(scores)


def test_impossible_settings_are_one_line_errors() -> None:
    scores = [1.0, 2.0]
    for call in (
        lambda: mean_interval(scores, level=1.0),
        lambda: prediction_interval(scores, level=0.0),
        lambda: non_inferiority_test(scores, -1.0),
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


@few
@given(runs.filter(lambda values: max(values) > min(values)), st.sampled_from([0.0, 0.5, 3.0]))
def test_the_t_tests_are_those_of_scipy(differences: list[float], margin: float) -> None:
    assert t_test(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=1e-12)
    one_sided = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    assert non_inferiority_test(differences, margin) == pytest.approx(one_sided, abs=1e-12)
    low = mean_interval(differences).low
    assert (non_inferiority_test(differences, margin) < 0.025) == (low > -margin)
    low, high = mean_interval(differences).low, mean_interval(differences).high
    assert (t_test(differences) < 0.05) == (low > 0 or high < 0)


def test_holm_by_the_example_of_its_definition() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@few
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_rejects_what_stepping_down_rejects(ps: list[float]) -> None:
    rejected = set()
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        if ps[index] * (len(ps) - rank) > 0.05:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(holm(ps)) if p <= 0.05} == rejected


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
    st.lists(points, max_size=6),
    st.lists(st.just("another backbone"), max_size=1),
)
def test_exactly_one_verdict_applies(printed, digits, scores, obstacles) -> None:
    found = verdict(printed, digits, scores, obstacles=obstacles)
    comparable = bool(not obstacles and printed is not None and len(set(scores)) > 1)
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


STEADY = [89.4, 89.6, 89.5, 89.5, 89.7]
LOOSE = [86.0, 91.0, 88.5, 90.5, 87.0]


@pytest.mark.parametrize(
    ("printed", "scores", "word"),
    [
        (89.53, STEADY, REPRODUCED),
        (90.5, STEADY, NOT_REPRODUCED),
        (89.53, LOOSE, WITHIN_NOISE),
        (98.0, LOOSE, NOT_REPRODUCED),
        (89.53, [89.53], NOT_COMPARABLE),
        (89.53, [89.53, 89.53], NOT_COMPARABLE),
        (None, STEADY, NOT_COMPARABLE),
        (89.53, [], NOT_COMPARABLE),
    ],
)
def test_verdicts_by_example(printed, scores, word) -> None:
    assert verdict(printed, 2, scores).word == word


def test_a_printed_figure_stands_for_what_rounds_to_it() -> None:
    scores = [89.525 - 1e-6, 89.525 + 1e-6]  # hardly a spread: nothing but rounding forgives a difference
    assert verdict(89.53, 2, scores).word == REPRODUCED
    assert verdict(89.54, 2, scores).word == NOT_REPRODUCED
    assert verdict(89.5, 1, scores).word == REPRODUCED


def test_all_obstacles_are_named() -> None:
    found = verdict(None, 2, [80.0], obstacles=["generated data, not GLUE"])
    assert found.word == NOT_COMPARABLE
    for reason in ("generated data", "one seed only", "prints no figure"):
        assert reason in found.reason
