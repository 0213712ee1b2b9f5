"""GRIM: which accuracies n right answers of N can give."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora2_bench.paper.attainable import (
    MAX_RUNS,
    attainable_share,
    correct_count,
    correct_count_truncated,
    fewest_runs,
    nearest_correct_count,
)
from lora2_bench.paper.printed import Printed, Range, decimal

ROWS = st.integers(1, 50_000)
DIGITS = st.integers(0, 3)


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, int]:
    """n right answers of N."""
    rows = draw(ROWS)
    return draw(st.integers(0, rows)), rows


@settings(max_examples=60, deadline=None)
@given(answers(), DIGITS)
def test_what_a_run_gives_is_attainable_by_one_run(pair: tuple[int, int], digits: int) -> None:
    n, rows = pair
    printed = Printed(decimal(Fraction(100 * n, rows), digits))
    found = correct_count(printed, rows)
    assert found is not None
    assert printed.range.overlaps(Range.exact(Fraction(100 * found, rows)))
    assert fewest_runs(printed, rows) == 1


@settings(max_examples=60, deadline=None)
@given(answers(), DIGITS)
def test_halves_rounded_to_even_are_attainable_too(pair: tuple[int, int], digits: int) -> None:
    n, rows = pair
    rounded = round(Fraction(100 * n, rows), digits)
    assert fewest_runs(Printed(decimal(Fraction(rounded), digits)), rows) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 277), min_size=1, max_size=MAX_RUNS), st.integers(277, 5463), DIGITS)
def test_the_mean_of_some_runs_needs_no_more_runs_than_there_were(counts: list[int], rows: int, digits: int) -> None:
    printed = Printed(decimal(Fraction(100 * sum(counts), rows * len(counts)), digits))
    runs = fewest_runs(printed, rows)
    assert runs is not None
    assert runs <= len(counts)
    found = correct_count(printed, rows, runs)
    assert found is not None
    assert printed.range.overlaps(Range.exact(Fraction(100 * found, rows * runs)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1000).flatmap(lambda rows: st.tuples(st.integers(0, rows - 1), st.just(rows))))
def test_a_figure_between_two_neighbours_is_of_no_single_run(pair: tuple[int, int]) -> None:
    n, rows = pair
    printed = Printed(decimal(Fraction(100 * n + 50, rows), 3))  # n + 1/2 answers; steps are at least 0.1 wide
    assert correct_count(printed, rows) is None
    assert correct_count_truncated(printed, rows) is None
    assert fewest_runs(printed, rows) == 2
    assert nearest_correct_count(printed, rows) in (n, n + 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2000), st.integers(0, 1))
def test_the_attainable_share_is_a_count_of_figures(rows: int, digits: int) -> None:
    figures = [Printed(decimal(Fraction(f, 10**digits), digits)) for f in range(100 * 10**digits + 1)]
    hits = sum(correct_count(printed, rows) is not None for printed in figures)
    assert attainable_share(digits, rows) == Fraction(hits, len(figures))


@pytest.mark.parametrize(("digits", "rows", "share"), [(2, 10_000, 1), (2, 40_430, 1), (0, 1, Fraction(2, 101))])
def test_big_sets_attain_everything_and_one_row_two_figures(digits: int, rows: int, share: Fraction) -> None:
    assert attainable_share(digits, rows) == share


@pytest.mark.parametrize(
    ("text", "rows", "runs", "n"),
    [
        ("90.93", 408, 1, 371),
        ("89.53", 277, 1, 248),
        ("85.32", 277, 3, 709),
        ("82.49", 277, 2, 457),
        ("83.02", 277, None, None),
        ("91.98", 408, None, None),
        ("96.1", 872, 1, 838),
        ("94.28", 5463, 2, 10_301),
        ("100.00", 277, 1, 277),
        ("0.00", 277, 1, 0),
    ],
)
def test_figures_worked_out_by_hand(text: str, rows: int, runs: int | None, n: int | None) -> None:
    printed = Printed(text)
    assert fewest_runs(printed, rows) == runs
    assert (correct_count(printed, rows, runs) if runs else None) == n


def test_cut_off_digits_are_another_rule() -> None:
    assert correct_count(Printed("94.28"), 5463) is None
    assert correct_count_truncated(Printed("94.28"), 5463) == 5151
    assert correct_count_truncated(Printed("85.32"), 277) is None
    assert correct_count_truncated(Printed("100.00"), 277) == 277
