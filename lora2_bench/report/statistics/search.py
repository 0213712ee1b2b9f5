"""The expected best of n random trials, from the scores of N (Dodge et al., Show Your Work, arXiv 1909.03004)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from lora2_bench.report.statistics.intervals import Floats, finite


def expected_best(scores: ArrayLike, n: int) -> float:
    """Mean of the best of n trials drawn, with replacement, from N scores: Σ v₍ᵢ₎ [(i/N)ⁿ − ((i−1)/N)ⁿ], v sorted.

    The closed form of Dodge et al., eq. 7. Raises ValueError for n under 1, and as `intervals.finite` does.
    """
    values, weights = _best(scores, n)
    return float(values @ weights)


def spread_of_best(scores: ArrayLike, n: int) -> float:
    """Standard deviation of the best of n such trials, in closed form: what one search of n trials may get.

    It is the variance of Dodge et al., not an interval of their estimator: N draws say nothing of scores that none of
    them had. Errors as of `expected_best`.
    """
    values, weights = _best(scores, n)
    mean = float(values @ weights)
    return math.sqrt(max(0.0, float((values - mean) ** 2 @ weights)))


def _best(scores: ArrayLike, n: int) -> tuple[Floats, Floats]:
    """Scores (N,), sorted, and the chance of each to be the best of n."""
    if n < 1:
        raise ValueError(f"n={n} is not possible: it must be at least 1")
    values = np.sort(finite(scores))
    cumulative = (np.arange(values.size + 1) / values.size) ** n
    return values, np.diff(cumulative)
