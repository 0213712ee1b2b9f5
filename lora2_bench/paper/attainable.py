"""Which accuracies are possible on a dev set of a given size: the GRIM test (Brown and Heathers, 2017).

An accuracy is a number of correct predictions over the number of rows, so a small dev set excludes most figures.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import ceil, floor

from lora2_bench.paper.printed import Printed

MAX_RUNS = 5


def correct_count(printed: Printed, rows: int, runs: int = 1) -> int | None:
    """The number of correct predictions over all `runs` whose mean accuracy rounds to `printed` (in percent).

    Of several numbers it is the one nearest to the printed figure; None where there is none.
    """
    total = rows * runs
    fewest = max(ceil(printed.range.low * total / 100), 0)
    most = min(floor(printed.range.high * total / 100), total)
    nearest = floor(printed.value * total / 100 + Fraction(1, 2))
    return min(max(nearest, fewest), most) if fewest <= most else None


def correct_count_truncated(printed: Printed, rows: int) -> int | None:
    """The number of correct predictions of one run whose accuracy is truncated, not rounded, to `printed`; or None."""
    fewest = ceil(printed.value * rows / 100)
    return fewest if fewest <= rows and printed.is_truncation_of(Fraction(100 * fewest, rows)) else None


def fewest_runs(printed: Printed, rows: int) -> int | None:
    """The smallest number of runs, of 1 to 5, whose mean accuracy can round to `printed`; None where none can."""
    possible = (runs for runs in range(1, MAX_RUNS + 1) if correct_count(printed, rows, runs) is not None)
    return next(possible, None)


def nearest_correct_count(printed: Printed, rows: int) -> int:
    """The number of correct predictions of one run whose accuracy is nearest to `printed`."""
    return floor(printed.value * rows / 100 + Fraction(1, 2))


@cache
def attainable_share(digits: int, rows: int) -> Fraction:
    """The share of all figures from 0 to 100 with `digits` decimals that one run on `rows` rows can print."""
    steps = 100 * 10**digits
    # Step f is reached where some n has |n · steps / rows - f| <= 1/2.
    hits = sum(((2 * f + 1) * rows) // (2 * steps) >= -(((1 - 2 * f) * rows) // (2 * steps)) for f in range(steps + 1))
    return Fraction(hits, steps + 1)
