"""Paired tests over seeds (Student's t, sign flips, non-inferiority) and over examples (McNemar); Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from lora2_bench.report.statistics.intervals import Floats, finite, spread

Key = tuple[str, int]


EXACT_UP_TO = 16  # pairs: 2^16 arrangements are enumerated in a millisecond


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
    """Match scores by (task, seed). Scores that only one method has are left out, and their number is reported."""
    keys = tuple(sorted(ours.keys() & theirs.keys()))
    return Pairs(
        keys,
        np.array([ours[key] for key in keys], dtype=np.float64),
        np.array([theirs[key] for key in keys], dtype=np.float64),
        len(ours.keys() ^ theirs.keys()),
    )


def t_test(differences: ArrayLike) -> float | None:
    """Two-sided p-value of the paired t test of differences (n,); None where their `spread` is unknown.

    Assumes independent, approximately normal differences. Raises ValueError as `intervals.mean_interval` does.
    """
    found = _t(differences, 0.0)
    return None if found is None else float(2 * special.stdtr(len(finite(differences)) - 1, -abs(found)))


def non_inferiority_test(differences: ArrayLike, margin: float) -> float | None:
    """One-sided p-value of the paired t test whose null hypothesis is a mean difference of −`margin` or less.

    It lies under 0.025 exactly where the whole 95 % interval of the mean lies above −`margin` (ICH E9's level). None
    where the `spread` of the differences (n,) is unknown. Raises ValueError for a margin under 0, else as `t_test`.
    """
    if not margin >= 0:
        raise ValueError(f"margin={margin} is not possible: it must be at least 0 points")
    found = _t(differences, -margin)
    return None if found is None else float(special.stdtr(len(finite(differences)) - 1, -found))


def _t(differences: ArrayLike, null: float) -> float | None:
    values = finite(differences)
    sd = spread(values)
    return None if sd is None else (float(values.mean()) - null) / (sd / math.sqrt(values.size))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: rejecting those under α keeps the chance of any false rejection under α (Holm 1979)."""
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted


def sign_flip_test(differences: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of paired differences (n,) under flips of their signs; the statistic is |sum|.

    This is Fisher's randomisation test for pairs: under the null hypothesis each difference is as likely as its
    negative. It is exact over all 2^n arrangements up to n = 16, else over `resamples` random ones. The observed
    arrangement is counted, so p is at least 2^(1-n), or 1 / (resamples + 1): five pairs cannot give less than 0.0625,
    six no less than 0.03125.
    `scipy.stats.permutation_test` draws other arrangements beyond 16 pairs, and takes 1 ms where this takes 20 µs.

    Raises:
        ValueError: without differences, or with one that is not finite.
    """
    values = np.asarray(differences, dtype=np.float64).ravel()
    if not values.size or not np.isfinite(values).all():
        raise ValueError("differences must be finite numbers, at least one")
    # Sums of the same numbers in another order differ in the last digits; the tolerance makes them ties.
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
        only_a, only_b: number of (example, seed) pairs that only this method predicts correctly.
        p: two-sided p-value.
    """

    only_a: int
    only_b: int
    p: float


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """Exact McNemar test of two classifiers on the same examples; over several seeds, with the example as the unit.

    For one seed this is the exact binomial test of the discordant pairs (McNemar 1947). For several, discordant counts
    are pooled over seeds, but not treated as independent: an example that is hard for one method tends to be hard under
    every seed, and a binomial test of the pooled counts would count it once per seed. So all of an example's
    differences change sign together, as clusters do in Durkalski et al. (2003). The distribution is exact down to
    p = 1e-12.

    The test assumes independent examples. It generalises to further examples, for these trained models; it does not
    generalise to further seeds.

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
        int((a & ~b).sum()), int((b & ~a).sum()), _cluster_flip_p(np.bincount(np.abs(net)), abs(int(net.sum())))
    )


def _cluster_flip_p(counts: NDArray[np.int64], observed: int) -> float:
    """P(|Σ ± size| ≥ observed), with counts[size] clusters of each size, each of a fair random sign."""
    sizes = np.flatnonzero(counts[1:]) + 1
    if not observed:
        return 1.0
    if sizes.size == 1:
        count = int(counts[sizes[0]])
        return min(1.0, 2 * float(special.bdtr((count - observed // int(sizes[0])) // 2, count, 0.5)))
    total = int(counts @ np.arange(counts.size))
    # The part that keeps its sign is Σ size · Binomial(count, 1/2); its distribution is the inverse transform of its
    # characteristic function.
    half_angle = np.pi * np.arange((total + 1) // 2 + 1) / (total + 1)
    moduli = np.prod([np.cos(size * half_angle) ** counts[size] for size in sizes], axis=0)
    chances = np.fft.irfft(moduli * np.exp(-1j * total * half_angle), total + 1)
    extreme = np.abs(total - 2 * np.arange(total + 1)) >= observed
    return float(np.clip(chances[extreme].sum(), 1e-12, 1.0))  # smaller values are rounding errors
