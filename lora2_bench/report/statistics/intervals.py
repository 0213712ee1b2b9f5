"""Confidence and prediction intervals of scores over seeds: pure functions over arrays.

docs/STATISTICS.md gives the rule behind each and its limits. Scores are in points (0 to 100), one per seed. An average
over tasks is one number per seed too (`averages`), so that one kind of interval serves both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

LEVEL = 0.95
EQUAL = 1e-9
"""Points within which scores are the same number: what rounding leaves of equal shares."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval.

    Attributes:
        estimate: the mean of the scores.
        low, high: the ends of the interval; None where the spread is unknown, as in `spread`.
        n: number of scores.
    """

    estimate: float
    low: float | None
    high: float | None
    n: int

    @property
    def half_width(self) -> float:
        """Half the width of the interval; infinite where its ends are unknown."""
        return math.inf if self.low is None or self.high is None else (self.high - self.low) / 2


def finite(scores: ArrayLike) -> Floats:
    """Scores as an array (seeds,). Raises ValueError for any other shape, no score, or one that is not finite."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError("scores must be finite numbers, one per seed, at least one")
    return values


def check_probability(name: str, value: float) -> None:
    """Raise ValueError unless `value` lies strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name}={value} is not possible: it must lie between 0 and 1")


def averages(scores: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Seed -> its average over tasks, of the seeds that every task has; every task weighs alike.

    A seed draws the same first adapter on every task, so the scores of one seed may rise and fall together. The spread
    of these averages has that in it; a sum of the tasks' own variances has not.

    Args:
        scores: task -> seed -> points, at least one task.
    """
    shared = sorted(set.intersection(*(set(runs) for runs in scores.values())))
    return {seed: sum(runs[seed] for runs in scores.values()) / len(scores) for seed in shared}


def spread(scores: ArrayLike) -> float | None:
    """Standard deviation (n − 1) of the scores of at least one seed.

    None where it cannot be known: for one seed, and where all scores are equal. Scores on a dev set are shares with
    steps (0.36 points on RTE), so equal ones show a spread under the step, not a spread of zero.
    """
    values = finite(scores)
    return float(values.std(ddof=1)) if values.size > 1 and np.ptp(values) > EQUAL else None


def mean_interval(scores: ArrayLike, *, level: float = LEVEL) -> Interval:
    """Student's t interval of the mean over seeds: mean ± t · sd / √n.

    Assumes that the scores (n,) are independent and approximately normal. Raises ValueError without scores, with one
    that is not finite, or for an impossible level.
    """
    return student_intervals(scores, level, 0)[0]


def prediction_interval(scores: ArrayLike, *, level: float = LEVEL) -> Interval:
    """Where one further run falls with confidence `level`: mean ± t · sd · √(1 + 1/n).

    Assumptions and errors as for `mean_interval`.
    """
    return student_intervals(scores, level, 1)[0]


def student_intervals(scores: ArrayLike, level: float, *further: int) -> list[Interval]:
    """One interval for each of `further`, the number of further runs; 0 gives that of the mean itself."""
    check_probability("level", level)
    values = finite(scores)
    n, mean, sd = values.size, float(values.mean()), spread(values)
    if sd is None:
        return [Interval(mean, None, None, n)] * len(further)
    halves = [t_quantile(n - 1, (1 + level) / 2) * sd * math.sqrt(1 / n + more) for more in further]
    return [Interval(mean, mean - half, mean + half, n) for half in halves]


@cache  # tables ask for thousands of intervals over few numbers of seeds
def t_quantile(degrees: int, share: float) -> float:
    """The number that Student's t with these degrees of freedom stays under in `share` of cases."""
    return float(special.stdtrit(degrees, share))


def interquartile_mean(scores: ArrayLike) -> float:
    """The mean of the middle half of scores (n,), as one seed's over tasks (after Agarwal et al., arXiv 2108.13264).

    Where n is not a multiple of four, the two scores at the quartiles count in part. Raises ValueError as
    `mean_interval` does.
    """
    values = np.sort(finite(scores))
    above = np.arange(1, values.size + 1) / values.size
    inside = np.clip(np.minimum(above, 0.75) - np.maximum(above - 1 / values.size, 0.25), 0, None)
    return float(inside @ values / inside.sum())
