"""Which accuracies a dev set of a given size can give at all: the GRIM test (Brown and Heathers, 2017).

An accuracy is a number of right answers over the number of rows, so a small dev set leaves most figures out.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import ceil, floor

from lora2_bench.paper.printed import Printed

MOST_RUNS = 5


def right_answers(printed: Printed, rows: int, runs: int = 1) -> int | None:
    """Right answers over all `runs` whose mean accuracy rounds to `printed` (in percent); None where none does.

    Where several do, the one nearest to the printed figure.
    """
    total = rows * runs
    fewest = max(ceil(printed.range.low * total / 100), 0)
    most = min(floor(printed.range.high * total / 100), total)
    nearest = floor(printed.value * total / 100 + Fraction(1, 2))
    return min(max(nearest, fewest), most) if fewest <= most else None


def right_answers_cut_off(printed: Printed, rows: int) -> int | None:
    """Right answers of one run whose accuracy gives `printed` with further digits cut off, not rounded; or None."""
    fewest = ceil(printed.value * rows / 100)
    return fewest if fewest <= rows and printed.cuts_off(Fraction(100 * fewest, rows)) else None


def fewest_runs(printed: Printed, rows: int) -> int | None:
    """The smallest number of runs, of 1 to 5, whose mean accuracy can round to `printed`; None where none can."""
    possible = (runs for runs in range(1, MOST_RUNS + 1) if right_answers(printed, rows, runs) is not None)
    return next(possible, None)


def nearest_answers(printed: Printed, rows: int) -> int:
    """Right answers of the one run whose accuracy lies nearest to `printed`."""
    return floor(printed.value * rows / 100 + Fraction(1, 2))


@cache
def attainable_share(digits: int, rows: int) -> Fraction:
    """The share of all figures from 0 to 100 with `digits` decimals that one run on `rows` rows can print."""
    steps = 100 * 10**digits
    # Step f is reached where some n has |n · steps / rows - f| <= 1/2.
    hits = sum(((2 * f + 1) * rows) // (2 * steps) >= -(((1 - 2 * f) * rows) // (2 * steps)) for f in range(steps + 1))
    return Fraction(hits, steps + 1)
