"""Power of the paired t test: the smallest difference that n pairs detect, and the pairs that a difference needs."""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import cache

from scipy import special

from lora2_bench.report.statistics.intervals import check_probability


def _power(effect: float, n: int, alpha: float) -> float:
    """Chance that a two-sided paired t test of n differences finds a mean of `effect` > 0 sd, with the right sign."""
    shift = effect * math.sqrt(n)
    if n > 100_000:  # the t distribution is the normal one here, to five digits
        return float(special.ndtr(shift + special.ndtri(alpha / 2)))
    missed = float(special.nctdtr(n - 1, shift, special.stdtrit(n - 1, 1 - alpha / 2)))
    return 1.0 if math.isnan(missed) else 1 - missed  # SciPy returns NaN where the chance underflows to 0


@cache
def _detectable_effect(n: int, alpha: float, power: float) -> float:
    """The smallest |mean| / sd of n differences that the test finds with this power."""
    from scipy.optimize import brentq  # its import takes 0.2 s, which only tables with a comparison need

    high = 1.0
    while _power(high, n, alpha) < power:
        high *= 2
    return float(brentq(lambda effect: _power(effect, n, alpha) - power, 0, high))


def _check_design(sd: float, alpha: float, power: float) -> None:
    check_probability("alpha", alpha)
    check_probability("power", power)
    if alpha >= power:
        raise ValueError(f"power={power} is not possible: it must exceed alpha={alpha}")
    if not (math.isfinite(sd) and sd >= 0):
        raise ValueError(f"sd={sd} is not possible: it must be a number of at least 0")


def detectable_difference(sd: float, n: int, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The smallest true mean difference that n pairs detect, in the unit of `sd`; None for n under 2.

    Two-sided paired t test, noncentral t distribution (Cohen 1988, chapter 2).

    Args:
        sd: standard deviation of the paired differences, taken as known. For two independent methods that each
            have standard deviation s, it is √2 · s.
        n: number of pairs (seeds).
        alpha: significance level, the chance of a false positive.
        power: chance of detecting the difference, with the right sign, where it exists.

    Raises:
        ValueError: for a negative sd, or for alpha and power other than 0 < alpha < power < 1.
    """
    _check_design(sd, alpha, power)
    return None if n < 2 else sd * _detectable_effect(n, alpha, power)


def seeds_needed(difference: float, sd: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """The smallest number of pairs (at least 2) that detects `difference`; None for a difference of 0: no number does.

    The inverse of `detectable_difference`, with the same arguments, assumptions and errors.
    """
    _check_design(sd, alpha, power)
    if difference == 0:
        return None
    if sd == 0:
        return 2
    effect = abs(difference) / sd * (1 + 1e-9)  # so that rounding errors never add a pair
    high = 2
    while _power(effect, high, alpha) < power:
        high *= 2
    return bisect_left(range(high), power, high // 2 + 1, high, key=lambda n: _power(effect, n, alpha))
