"""Confidence and prediction intervals of scores over seeds and tasks: pure functions over arrays.

docs/STATISTICS.md gives the rule behind each and its limits. Scores are in points (0 to 100), one per
seed; `scores` maps each task to the scores of its seeds. Every function that draws random numbers takes a seed: the
same seed gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]
Scores = Mapping[str, ArrayLike]

LEVEL = 0.95
RESAMPLES = 5_000


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval.

    Attributes:
        estimate: the statistic of the scores themselves.
        low, high: the ends of the interval; None where a task has only one seed, so that its variance is unknown.
        seeds: number of scores per task.
    """

    estimate: float
    low: float | None
    high: float | None
    seeds: dict[str, int]

    @property
    def half_width(self) -> float:
        """Half the width of the interval; infinite where its ends are unknown."""
        return math.inf if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def is_balanced(self) -> bool:
        """Whether every task has the same number of seeds."""
        return len(set(self.seeds.values())) == 1


def _by_task(scores: Scores) -> dict[str, Floats]:
    """The scores as arrays (seeds,), sorted by task name: the order of the mapping does not change a result."""
    if not scores:
        raise ValueError("scores of no task: give the scores of at least one")
    values = {task: np.asarray(scores[task], dtype=np.float64) for task in sorted(scores)}
    for task, runs in values.items():
        if runs.ndim != 1 or not runs.size or not np.isfinite(runs).all():
            raise ValueError(f"scores of {task} must be finite numbers, one per seed, at least one")
    return values


def check_probability(name: str, value: float) -> None:
    """Raise ValueError unless `value` lies strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name}={value} is not possible: it must lie between 0 and 1")


def _interquartile_means(rows: Floats, weights: Floats) -> Floats:
    """The interquartile mean of each row of (resamples, runs); `weights` (runs,) sum to 1."""
    order = np.argsort(rows, axis=1)
    weight = weights[order]
    cumulative = np.cumsum(weight, axis=1)
    inside = np.clip(np.minimum(cumulative, 0.75) - np.maximum(cumulative - weight, 0.25), 0, None)
    means: Floats = (inside * np.take_along_axis(rows, order, axis=1)).sum(axis=1) / inside.sum(axis=1)
    return means


def _weights(values: Mapping[str, Floats]) -> Floats:
    """(runs,) weights that sum to 1: every task has the same weight, whatever its number of seeds."""
    return np.concatenate([np.full(runs.size, 1 / (len(values) * runs.size)) for runs in values.values()])


def interquartile_mean(scores: ArrayLike) -> float:
    """The mean of the middle half of all scores (Agarwal et al., arXiv 2108.13264).

    Args:
        scores: any shape, as (runs, tasks); at least one, all finite. Where their number is not a multiple of four,
            the two scores at the quartiles have fractional weights.

    Raises:
        ValueError: without scores, or with one that is not finite.
    """
    flat = np.asarray(scores, dtype=np.float64).reshape(1, -1)
    if not flat.size or not np.isfinite(flat).all():
        raise ValueError("scores must be finite numbers, at least one")
    return float(_interquartile_means(flat, np.full(flat.size, 1 / flat.size))[0])


def bootstrap_interval(
    scores: Scores,
    statistic: Literal["mean", "interquartile_mean"] = "mean",
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Stratified percentile bootstrap over seeds: seeds are resampled with replacement within each task.

    This is the stratified bootstrap of Agarwal et al. (arXiv 2108.13264), with tasks as strata. With one task it is the
    interval of that task's mean. Tasks have equal weights, whatever their number of seeds. `scipy.stats.bootstrap`
    gives the same interval from the same seed, but with it the tables of 5,000 records take 1.4 times the CPU time.

    Args:
        scores: task -> scores of its seeds. The number of seeds may differ between tasks; the result reports it.
        statistic: the mean of the tasks' means, or the interquartile mean over runs × tasks.
        level: share of the bootstrap distribution inside the interval.
        resamples: number of bootstrap samples.
        seed: of the random draws.

    Raises:
        ValueError: without scores, with one that is not finite, or for an impossible level or number of resamples.
    """
    check_probability("level", level)
    if resamples < 1:
        raise ValueError(f"resamples={resamples} is not possible: it must be at least 1")
    values = _by_task(scores)
    weights = _weights(values)

    def of(rows: Floats) -> Floats:
        return rows @ weights if statistic == "mean" else _interquartile_means(rows, weights)

    estimate = float(of(np.concatenate(list(values.values()))[np.newaxis])[0])
    seeds = {task: runs.size for task, runs in values.items()}
    if min(seeds.values()) < 2:
        return Interval(estimate, None, None, seeds)
    indices = _bootstrap_indices(tuple(seeds.values()), resamples, seed)
    drawn = [runs[chosen] for runs, chosen in zip(values.values(), indices, strict=True)]
    low, high = np.quantile(of(np.concatenate(drawn, axis=1)), [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), seeds)


@lru_cache(maxsize=16)  # a table asks for hundreds of intervals over the same numbers of seeds
def _bootstrap_indices(sizes: tuple[int, ...], resamples: int, seed: int) -> list[NDArray[np.int64]]:
    """Per task, the indices of the runs in each bootstrap sample: (resamples, runs)."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, size, (resamples, size)) for size in sizes]


def mean_interval(scores: Scores, *, level: float = LEVEL) -> Interval:
    """Student's t interval of the mean over tasks of the means over seeds.

    Over several tasks with unequal variances, the degrees of freedom are those of Welch and Satterthwaite. Assumes that
    the scores of seeds are independent and approximately normal. Raises ValueError as `bootstrap_interval` does.
    """
    return student_intervals(scores, level, 0)[0]


def prediction_interval(scores: Scores, *, level: float = LEVEL) -> Interval:
    """Where one further run (over several tasks: one further run on each, averaged) falls with confidence `level`.

    mean ± t · sd · √(1 + 1/n) for one task. Assumptions and errors as for `mean_interval`.
    """
    return student_intervals(scores, level, 1)[0]


def student_intervals(scores: Scores, level: float, *further: int) -> list[Interval]:
    """One interval for each of `further`, the number of further runs per task; 0 gives that of the mean itself."""
    check_probability("level", level)
    values = _by_task(scores)
    mean = float(np.mean([runs.mean() for runs in values.values()]))
    seeds = {task: runs.size for task, runs in values.items()}
    if min(seeds.values()) < 2:
        return [Interval(mean, None, None, seeds)] * len(further)
    sizes = np.array(list(seeds.values()))
    variances = np.array([runs.var(ddof=1) for runs in values.values()]) / len(values) ** 2
    found = []
    for runs_more in further:
        parts = variances * (1 / sizes + runs_more)
        half = 0.0
        if parts.any():
            degrees = 1 / np.sum((parts / parts.sum()) ** 2 / (sizes - 1))
            half = float(special.stdtrit(degrees, (1 + level) / 2) * math.sqrt(parts.sum()))
        found.append(Interval(mean, mean - half, mean + half, seeds))
    return found
