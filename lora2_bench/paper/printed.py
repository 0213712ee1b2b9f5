"""Printed figures as exact fractions, with the interval of all numbers that round to them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor

_FIGURE = re.compile(r"(?P<whole>\d+)(\.(?P<decimals>\d+))?(?P<suffix>[kM%]?)")
_FACTOR = {"": 1, "%": 1, "k": 1_000, "M": 1_000_000}


@dataclass(frozen=True)
class Range:
    """The closed interval [low, high] that a number lies in; `value` is the number as printed or computed."""

    value: Fraction
    low: Fraction
    high: Fraction

    @classmethod
    def exact(cls, value: Fraction | int) -> Range:
        """A number that is known exactly."""
        return cls(Fraction(value), Fraction(value), Fraction(value))

    def __sub__(self, other: Range) -> Range:
        return Range(self.value - other.value, self.low - other.high, self.high - other.low)

    def __truediv__(self, other: Range) -> Range:
        """The quotient of two positive numbers."""
        return Range(self.value / other.value, self.low / other.high, self.high / other.low)

    def overlaps(self, other: Range) -> bool:
        """Whether both can be the same number."""
        return self.low <= other.high and other.low <= self.high


def mean(ranges: Sequence[Range]) -> Range:
    """The mean of at least one number."""
    n = len(ranges)
    return Range(
        sum((one.value for one in ranges), Fraction()) / n,
        sum((one.low for one in ranges), Fraction()) / n,
        sum((one.high for one in ranges), Fraction()) / n,
    )


@dataclass(frozen=True)
class Printed:
    """A figure as it is printed: `89.06`, `96.1`, `0.72%`, `37.4k`, `1.33M`. Percent counts in percent.

    Raises ValueError for any other text.
    """

    text: str

    def __post_init__(self) -> None:
        if not _FIGURE.fullmatch(self.text):
            raise ValueError(f"{self.text!r} is not a printed figure: write a decimal number, then k, M, % or nothing")

    def __str__(self) -> str:
        return self.text

    @property
    def suffix(self) -> str:
        """k, M, % or nothing."""
        return self.text[-1] if self.text[-1] in _FACTOR else ""

    @property
    def digits(self) -> int:
        """Decimals printed, trailing zeros included."""
        return len(self.text.removesuffix(self.suffix).partition(".")[2])

    @property
    def unit(self) -> Fraction:
        """The value of one unit of the last printed digit."""
        return Fraction(_FACTOR[self.suffix], 10**self.digits)

    @property
    def value(self) -> Fraction:
        """The number printed, k and M multiplied out."""
        return Fraction(self.text.removesuffix(self.suffix)) * _FACTOR[self.suffix]

    @property
    def range(self) -> Range:
        """All numbers that round to this figure. Both ends are included, so halves may be rounded up or to even."""
        return Range(self.value, self.value - self.unit / 2, self.value + self.unit / 2)

    def is_truncation_of(self, value: Fraction | int) -> bool:
        """Whether `value` gives this figure when it is truncated, not rounded, to as many decimals."""
        return self.value <= value < self.value + self.unit

    def like(self, value: Fraction) -> str:
        """`value` (at least 0) printed with the digits and the suffix of this figure; halves are rounded up."""
        return decimal(value / _FACTOR[self.suffix], self.digits) + self.suffix


def decimal(value: Fraction, digits: int) -> str:
    """A number as text with `digits` decimals, rounded half up in exact arithmetic."""
    steps = floor(abs(value) * 10**digits + Fraction(1, 2))
    whole, part = divmod(steps, 10**digits)
    sign = "-" if value < 0 and steps else ""
    return f"{sign}{whole}.{part:0{digits}d}" if digits else f"{sign}{whole}"
