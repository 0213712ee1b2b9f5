"""Printed figures and the intervals that rounding leaves open."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora2_bench.paper.printed import Printed, Range, decimal, mean

FIGURES = st.fractions(min_value=0, max_value=100, max_denominator=10**6)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("96.1", Fraction("96.1"), Fraction("0.1")),
        ("95.80", Fraction("95.8"), Fraction("0.01")),
        ("0.17M", 170_000, 10_000),
        ("37.4k", 37_400, 100),
        ("0.72%", Fraction("0.72"), Fraction("0.01")),
        ("872", 872, 1),
    ],
)
def test_a_figure_knows_its_value_and_its_last_digit(text: str, value: Fraction, unit: Fraction) -> None:
    printed = Printed(text)
    assert (printed.value, printed.unit, str(printed)) == (value, unit, text)
    assert printed.range == Range(Fraction(value), value - Fraction(unit) / 2, value + Fraction(unit) / 2)
    assert printed.like(printed.value) == text


@pytest.mark.parametrize("text", ["", ".5", "-1.0", "1e3", "1,000", "90.93 ", "5.k", "1 M"])
def test_other_text_is_no_figure(text: str) -> None:
    with pytest.raises(ValueError, match="is not a printed figure"):
        Printed(text)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [("2.675", 2, "2.68"), ("0.5", 0, "1"), ("-0.004", 2, "0.00"), ("-1.005", 2, "-1.01"), ("84.475", 2, "84.48")],
)
def test_halves_are_rounded_away_from_zero_as_decimals(value: str, digits: int, text: str) -> None:
    assert decimal(Fraction(value), digits) == text


@settings(max_examples=60, deadline=None)
@given(FIGURES, st.integers(0, 4))
def test_a_number_lies_in_the_interval_of_its_own_rounding(value: Fraction, digits: int) -> None:
    printed = Printed(decimal(value, digits))
    assert printed.range.overlaps(Range.exact(value))
    assert printed.digits == digits


@settings(max_examples=60, deadline=None)
@given(st.lists(FIGURES, min_size=1, max_size=12), st.integers(0, 3))
def test_the_mean_of_rounded_numbers_is_always_consistent_with_their_own_mean(
    values: list[Fraction], digits: int
) -> None:
    cells = mean([Printed(decimal(value, digits)).range for value in values])
    average = sum(values, Fraction()) / len(values)
    assert cells.low <= average <= cells.high
    assert Printed(decimal(average, digits)).range.overlaps(cells)


@settings(max_examples=60, deadline=None)
@given(st.lists(FIGURES, min_size=1, max_size=12), st.integers(0, 3))
def test_an_average_off_by_three_units_is_never_consistent(values: list[Fraction], digits: int) -> None:
    cells = mean([Printed(decimal(value, digits)).range for value in values])
    off = sum(values, Fraction()) / len(values) + Fraction(3, 10**digits)
    assert not Printed(decimal(off, digits)).range.overlaps(cells)


@settings(max_examples=60, deadline=None)
@given(FIGURES, FIGURES.filter(bool), st.integers(1, 3))
def test_differences_and_quotients_hold_what_the_numbers_give(one: Fraction, other: Fraction, digits: int) -> None:
    a, b = Printed(decimal(one, digits)).range, Printed(decimal(other, digits)).range
    difference = a - b
    assert difference.low <= one - other <= difference.high
    if b.low > 0 and a.low >= 0:
        quotient = a / b
        assert quotient.low <= one / other <= quotient.high


@settings(max_examples=60, deadline=None)
@given(FIGURES, st.integers(0, 3))
def test_cutting_off_takes_the_step_below(value: Fraction, digits: int) -> None:
    step = Fraction(1, 10**digits)
    assert Printed(decimal(value // step * step, digits)).is_truncation_of(value)
    assert not Printed(decimal(value // step * step + step, digits)).is_truncation_of(value)
