"""What scores over a few seeds and tasks can and cannot tell: pure functions over arrays.

docs/STATISTICS.md says for each which rule it follows and what it cannot say. Scores are in points (0 to 100), one per
seed; `scores` maps each task to its own seeds' scores. Whatever draws random numbers takes a seed: the same seed gives
the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]
Scores = Mapping[str, ArrayLike]
Key = tuple[str, int]

LEVEL = 0.95
MEANINGFUL = 1.0  # points: the smallest difference worth a claim
RESAMPLES = 5_000
EXACT_UP_TO = 16  # pairs: 2^16 arrangements are enumerated in a millisecond

REPRODUCED, WITHIN_NOISE, NOT_REPRODUCED = "reproduced", "within noise", "not reproduced"
NOT_COMPARABLE = "not comparable"
VERDICTS = (REPRODUCED, WITHIN_NOISE, NOT_REPRODUCED, NOT_COMPARABLE)


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval.

    Attributes:
        estimate: the statistic of the scores themselves.
        low, high: the interval's ends; None where a task has one seed, whose spread nobody knows.
        seeds: number of scores per task.
    """

    estimate: float
    low: float | None
    high: float | None
    seeds: dict[str, int]

    @property
    def half_width(self) -> float:
        """Half the distance of the ends; infinite where they are unknown."""
        return math.inf if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def is_balanced(self) -> bool:
        """True where every task has equally many seeds."""
        return len(set(self.seeds.values())) == 1


def _by_task(scores: Scores) -> dict[str, Floats]:
    """The scores as arrays, in the order of task names, so that the order of a mapping changes nothing."""
    if not scores:
        raise ValueError("scores of no task: at least one is needed")
    values = {task: np.asarray(scores[task], dtype=np.float64) for task in sorted(scores)}
    for task, runs in values.items():
        if runs.ndim != 1 or not runs.size or not np.isfinite(runs).all():
            raise ValueError(f"scores of {task} must be finite numbers, one per seed, at least one")
    return values


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}={value} is not possible: it must lie between 0 and 1")


def _interquartile_means(rows: Floats, weights: Floats) -> Floats:
    """The interquartile mean of each row of (resamples, runs); `weights` (runs,) sum to 1."""
    order = np.argsort(rows, axis=1)
    weight = weights[order]
    upto = np.cumsum(weight, axis=1)
    inside = np.clip(np.minimum(upto, 0.75) - np.maximum(upto - weight, 0.25), 0, None)
    means: Floats = (inside * np.take_along_axis(rows, order, axis=1)).sum(axis=1) / inside.sum(axis=1)
    return means


def _weights(values: Mapping[str, Floats]) -> Floats:
    """One weight per run, summing to 1: every task counts alike, however many seeds it has."""
    return np.concatenate([np.full(runs.size, 1 / (len(values) * runs.size)) for runs in values.values()])


def interquartile_mean(scores: ArrayLike) -> float:
    """The mean of the middle half of all scores (Agarwal et al., arXiv 2108.13264).

    Args:
        scores: any shape, as (runs, tasks); at least one, all finite. Where a quarter of them is no whole number, the
            scores at the edges count in part.

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
    """Stratified percentile bootstrap over seeds: each task's seeds are redrawn within the task.

    As the stratified bootstrap of Agarwal et al. (arXiv 2108.13264), where tasks are strata. With one task it is the
    interval of that task's mean. Tasks weigh alike, whatever their number of seeds.

    Args:
        scores: task -> scores of its seeds; the numbers of seeds may differ, and the result reports them.
        statistic: the mean of the tasks' means, or the interquartile mean over runs × tasks.
        level: share of the bootstrap distribution inside the interval.
        resamples: number of bootstrap samples.
        seed: of the random draws.

    Raises:
        ValueError: without scores, with one that is not finite, or for an impossible level or number of resamples.
    """
    _check_share("level", level)
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
    choices = _choices(tuple(seeds.values()), resamples, seed)
    drawn = [runs[chosen] for runs, chosen in zip(values.values(), choices, strict=True)]
    low, high = np.quantile(of(np.concatenate(drawn, axis=1)), [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), seeds)


@lru_cache(maxsize=16)  # a table asks for hundreds of intervals over the same numbers of seeds
def _choices(sizes: tuple[int, ...], resamples: int, seed: int) -> list[NDArray[np.int64]]:
    """Which runs each bootstrap sample takes: (resamples, runs) per task."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, size, (resamples, size)) for size in sizes]


def mean_interval(scores: Scores, *, level: float = LEVEL) -> Interval:
    """Student's t interval of the mean over tasks of the means over seeds.

    Over several tasks, each with a variance of its own, the degrees of freedom are Welch's and Satterthwaite's. Assumes
    scores of seeds that are independent and about normal. Raises ValueError as `bootstrap_interval` does.
    """
    return _student(scores, level, 0)[0]


def prediction_interval(scores: Scores, *, level: float = LEVEL) -> Interval:
    """Where one further run (over several tasks: one further run on each, averaged) falls with confidence `level`.

    mean ± t · sd · √(1 + 1/n) for one task. Assumptions and errors as for `mean_interval`.
    """
    return _student(scores, level, 1)[0]


def _student(scores: Scores, level: float, *further: int) -> list[Interval]:
    """One interval for each number of further runs per task; 0 for that of the mean itself."""
    _check_share("level", level)
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


@dataclass(frozen=True)
class Pairs:
    """Two methods on the same (task, seed).

    Attributes:
        keys: (task, seed) of each pair, sorted.
        ours, theirs: (pairs,) scores in the order of `keys`.
        unpaired: number of scores left out, because the other method has none for that task and seed.
    """

    keys: tuple[Key, ...]
    ours: Floats
    theirs: Floats
    unpaired: int

    @property
    def differences(self) -> Floats:
        """(pairs,) ours minus theirs."""
        return self.ours - self.theirs

    def by_task(self) -> dict[str, Floats]:
        """Task -> its differences, in the order of seeds."""
        tasks = np.array([task for task, _ in self.keys])
        return {str(task): self.differences[tasks == task] for task in np.unique(tasks)}


def pair(ours: Mapping[Key, float], theirs: Mapping[Key, float]) -> Pairs:
    """Match scores by (task, seed); what has no partner is left out and counted."""
    keys = tuple(sorted(ours.keys() & theirs.keys()))
    return Pairs(
        keys,
        np.array([ours[key] for key in keys], dtype=np.float64),
        np.array([theirs[key] for key in keys], dtype=np.float64),
        len(ours.keys() ^ theirs.keys()),
    )


def sign_flip_test(differences: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of paired differences (n,) under flips of their signs; the statistic is |sum|.

    Fisher's randomisation test for pairs: where the two methods are alike, each difference is as likely as its
    negative. Exact over all 2^n arrangements up to n = 16, else over `resamples` random ones. The observed arrangement
    is counted, so p is at least 2^(1-n), or 1 / (resamples + 1): five pairs cannot give less than 0.0625.

    Raises:
        ValueError: without differences, or with one that is not finite.
    """
    values = np.asarray(differences, dtype=np.float64).ravel()
    if not values.size or not np.isfinite(values).all():
        raise ValueError("differences must be finite numbers, at least one")
    # Sums of the same numbers in another order differ in the last digits, and must count as ties.
    observed = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    if values.size <= EXACT_UP_TO:
        sums = values[:1]  # the first sign stays: the other half of the arrangements mirrors this one
        for value in values[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= observed))
    flips = np.random.default_rng(seed).integers(0, 2, (resamples, values.size), dtype=np.int8)
    sums = values.sum() - 2 * (flips @ values)
    return float((1 + np.count_nonzero(np.abs(sums) >= observed)) / (1 + resamples))


@dataclass(frozen=True)
class McNemar:
    """Discordant examples of two methods.

    Attributes:
        only_a, only_b: (example, seed) pairs that only the one method has right, summed over seeds.
        p: two-sided p-value.
    """

    only_a: int
    only_b: int
    p: float


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """Exact McNemar test of two classifiers on the same examples; over several seeds, with the example as the unit.

    For one seed this is the exact binomial test of the discordant pairs (McNemar 1947). For several, discordant counts
    are pooled over seeds, but not taken for independent: an example that is hard for one method tends to be so under
    every seed, and a binomial test of the pooled counts would count it again and again. So all of an example's
    differences change sign together, as clusters do in Durkalski et al. (2003); the distribution is exact, down to
    p = 1e-12.

    It assumes independent examples, and speaks of these trained models on examples like these: not of other seeds.

    Args:
        correct_a: booleans, (examples,) for one run or (seeds, examples).
        correct_b: of the other method, in the same shape, paired by seed.

    Raises:
        ValueError: where the shapes differ, or are neither of these.
    """
    a, b = np.atleast_2d(np.asarray(correct_a, dtype=bool)), np.atleast_2d(np.asarray(correct_b, dtype=bool))
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"correctness of shapes {a.shape} and {b.shape} is not paired: both must be (seeds, examples)")
    net = a.sum(axis=0) - b.sum(axis=0)
    return McNemar(
        int((a & ~b).sum()), int((b & ~a).sum()), _flip_by_size(np.bincount(np.abs(net)), abs(int(net.sum())))
    )


def _flip_by_size(counts: NDArray[np.int64], observed: int) -> float:
    """Chance that |Σ ± size| reaches `observed`, with counts[size] fair signs of each size."""
    sizes = np.flatnonzero(counts[1:]) + 1
    if not observed:
        return 1.0
    if sizes.size == 1:
        count = int(counts[sizes[0]])
        return min(1.0, 2 * float(special.bdtr((count - observed // int(sizes[0])) // 2, count, 0.5)))
    total = int(counts @ np.arange(counts.size))
    # Σ size · Binomial(count, 1/2), what keeps its sign, through its characteristic function: one transform for all.
    half_angle = np.pi * np.arange((total + 1) // 2 + 1) / (total + 1)
    moduli = np.prod([np.cos(size * half_angle) ** counts[size] for size in sizes], axis=0)
    chances = np.fft.irfft(moduli * np.exp(-1j * total * half_angle), total + 1)
    extreme = np.abs(total - 2 * np.arange(total + 1)) >= observed
    return float(np.clip(chances[extreme].sum(), 1e-12, 1.0))  # smaller ones drown in the transform's rounding


def _power(effect: float, n: int, alpha: float) -> float:
    """Chance that a two-sided paired t test of n differences finds a mean of `effect` > 0 sd, with the right sign."""
    shift = effect * math.sqrt(n)
    if n > 100_000:  # the t distribution is the normal one here, to five digits
        return float(special.ndtr(shift + special.ndtri(alpha / 2)))
    missed = float(special.nctdtr(n - 1, shift, special.stdtrit(n - 1, 1 - alpha / 2)))
    return 1.0 if math.isnan(missed) else 1 - missed  # NaN stands for 0 far out


@cache
def _detectable_effect(n: int, alpha: float, power: float) -> float:
    """The smallest |mean| / sd of n differences that the test finds with this power."""
    low, high = 0.0, 1.0
    while _power(high, n, alpha) < power:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _power(middle, n, alpha) < power else (low, middle)
    return high


def _check_design(sd: float, alpha: float, power: float) -> None:
    _check_share("alpha", alpha)
    _check_share("power", power)
    if alpha >= power:
        raise ValueError(f"power={power} is not possible: it must exceed alpha={alpha}")
    if not (math.isfinite(sd) and sd >= 0):
        raise ValueError(f"sd={sd} is not possible: it must be a number of at least 0")


def detectable_difference(sd: float, n: int, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The smallest true mean difference that n pairs reveal, in the unit of `sd`; None for n under 2.

    Two-sided paired t test, noncentral t distribution (Cohen 1988, chapter 2).

    Args:
        sd: standard deviation of the paired differences, taken as known. For two unpaired methods of equal spread s it
            is about √2 · s.
        n: number of pairs (seeds).
        alpha: chance of a false alarm.
        power: chance of finding the difference, with its sign, when it is there.

    Raises:
        ValueError: for a negative sd, or for alpha and power other than 0 < alpha < power < 1.
    """
    _check_design(sd, alpha, power)
    return None if n < 2 else sd * _detectable_effect(n, alpha, power)


def seeds_needed(difference: float, sd: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """The smallest number of pairs (at least 2) that reveals `difference`; None for a difference of 0: no number does.

    The inverse of `detectable_difference`, with the same arguments, assumptions and errors.
    """
    _check_design(sd, alpha, power)
    if difference == 0:
        return None
    if sd == 0:
        return 2
    effect = abs(difference) / sd * (1 + 1e-9)  # so that rounding never asks for one seed more
    low, high = 1, 2
    while _power(effect, high, alpha) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _power(effect, middle, alpha) < power else (low, middle)
    return high


@dataclass(frozen=True)
class Verdict:
    """What our runs say of one printed figure.

    Attributes:
        word: one of `VERDICTS`.
        reason: one line, with the numbers that decided.
        difference: our mean minus the printed figure, in points; None where not comparable.
        mean: our mean with its t interval; None without scores.
        prediction: our mean with the interval of one further run; None without scores.
    """

    word: str
    reason: str
    difference: float | None
    mean: Interval | None
    prediction: Interval | None


def verdict(
    printed: float | None,
    digits: int,
    scores: Mapping[str, Sequence[float] | Floats],
    *,
    obstacles: Sequence[str] = (),
    margin: float = MEANINGFUL,
    level: float = LEVEL,
) -> Verdict:
    """Judge a printed figure by our runs: the first rule that applies decides, so exactly one does.

    1. not comparable: there is an obstacle, no printed figure, or a task with fewer than two seeds.
    2. not reproduced: the figure lies outside the prediction interval of one further run of ours.
    3. reproduced: the whole interval of our mean lies within `margin` points of the figure.
    4. within noise: everything else; a run of ours could be the figure, and our mean could be a margin away from it.

    The figure stands for every number that rounds to it: half a unit of its last digit is taken off its distance.

    Args:
        printed: the paper's figure in points; None where it prints none.
        digits: decimals it is printed with.
        scores: task -> our scores over seeds; several tasks for a printed average over exactly these.
        obstacles: reasons why ours are not the figure's kind of run: other data, backbone, rows, protocol, settings.
        margin: smallest meaningful difference, in points.
        level: of both intervals.

    Raises:
        ValueError: for a score that is not finite, a task without any, a margin under 0, or an impossible level.
    """
    if not margin >= 0:
        raise ValueError(f"margin={margin} is not possible: it must be at least 0 points")
    if not scores:
        return Verdict(NOT_COMPARABLE, "; ".join([*obstacles, "no run of ours"]), None, None, None)
    mean, further = _student(scores, level, 0, 1)
    few = [task for task, seeds in mean.seeds.items() if seeds < 2]
    reasons = [*obstacles, *([f"one seed only ({', '.join(few)}): its spread is unknown"] if few else [])]
    if printed is None:
        reasons.append("the paper prints no figure")
    if printed is None or reasons:
        return Verdict(NOT_COMPARABLE, "; ".join(reasons), None, mean, further)
    difference = mean.estimate - printed
    distance = max(0.0, abs(difference) - 0.5 * 10.0**-digits - 1e-9)
    share, shown = f"{100 * level:g} %", f"{printed:.{digits}f}"
    falls = f"{mean.estimate:.2f} ± {further.half_width:.2f}"
    reach = distance + mean.half_width
    if distance > further.half_width:
        word, reason = NOT_REPRODUCED, f"{shown} lies outside {falls}, where a further run of ours falls ({share})"
    elif reach <= margin:
        word, reason = REPRODUCED, f"our mean lies within {margin:g} point(s) of {shown} ({share})"
    else:
        word = WITHIN_NOISE
        reason = f"{shown} could be a run of ours ({falls}, {share}), but our mean may lie {reach:.2f} points away"
    return Verdict(word, reason, difference, mean, further)
