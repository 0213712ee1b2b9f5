"""Which of many methods paired tests separate, and the groups of those that they do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean

import numpy as np
from scipy import special

from lora2_bench.report.statistics.intervals import EQUAL, Floats, averages
from lora2_bench.report.statistics.significance import holm

ALPHA = 0.05
Scores = Mapping[str, Mapping[int, float]]
"""Task -> seed -> points."""


def paired_p(scores: Floats) -> Floats:
    """Two-sided p-values of the paired t tests between all methods at once: `significance.t_test` of every pair.

    Args:
        scores: (methods, seeds) points; NaN where a method has no such seed.

    Returns:
        (methods, methods) p-values over the seeds that both have; NaN where the spread of the differences is unknown,
        as in `intervals.spread`, so on the diagonal too.
    """
    differences = scores[:, None, :] - scores[None, :, :]
    known = np.isfinite(differences)
    n = known.sum(axis=2)
    filled = np.where(known, differences, 0.0)
    span = np.where(known, differences, -np.inf).max(axis=2) - np.where(known, differences, np.inf).min(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = filled.sum(axis=2) / n
        squares = np.where(known, (differences - mean[:, :, None]) ** 2, 0.0).sum(axis=2)
        t = np.abs(mean) / np.sqrt(squares / (n - 1) / n)
    tested = (n > 1) & (span > EQUAL)
    return np.where(tested, 2 * special.stdtr(np.maximum(n - 1, 1), -np.where(tested, t, 0.0)), np.nan)


def tie_groups(count: int, separated: Iterable[tuple[int, int]]) -> list[tuple[int, ...]]:
    """The largest groups of methods 0 to count − 1 in which no two are separated, by their first member.

    This is the compact letter display of Piepho (2004), by his insert and absorb: a method may stand in several
    groups, two methods share one exactly where they are not separated.
    """
    groups = [frozenset(range(count))] if count else []
    for one, other in separated:
        split = [group - {gone} for group in groups if {one, other} <= group for gone in (one, other)]
        kept = [group for group in groups if not {one, other} <= group]
        candidates = list(dict.fromkeys([*kept, *split]))
        groups = [group for group in candidates if not any(group < larger for larger in candidates)]
    return sorted(tuple(sorted(group)) for group in groups)


def letters(index: int) -> str:
    """The name of a group: a to z, then aa, ab, ..."""
    name = ""
    while index >= 0:
        index, at = divmod(index, 26)
        name, index = chr(ord("a") + at) + name, index - 1
    return name


def pairs(count: int) -> list[tuple[int, int]]:
    """Every two of so many methods, the first below the second."""
    return list(combinations(range(count), 2))


def adjusted_p(averaged: Sequence[Mapping[int, float]]) -> dict[tuple[int, int], float]:
    """Holm's p over all pairs that can be tested; `averaged` has each method's points by seed."""
    seeds = sorted({seed for own in averaged for seed in own})
    if not seeds:
        return {}
    raw = paired_p(np.array([[own.get(seed, np.nan) for seed in seeds] for own in averaged], dtype=np.float64))
    tested = [pair for pair in pairs(len(averaged)) if np.isfinite(raw[pair])]
    return dict(zip(tested, holm([float(raw[pair]) for pair in tested]), strict=True))


def letters_of(count: int, groups: Sequence[Iterable[int]]) -> list[str]:
    """The letters of methods 0 to count − 1: one for each of `tie_groups` that a method stands in."""
    return ["".join(letters(number) for number, group in enumerate(groups) if at in group) for at in range(count)]


def groups_of(scores: Mapping[str, Scores]) -> dict[str, str]:
    """Name -> letters by paired t tests of the averages over tasks, with Holm over all pairs at 5 %, best mean first.

    A pair with fewer than two shared seeds, or without a spread, is not separated.

    Args:
        scores: name -> task -> seed -> points, the same tasks for all.
    """
    means = {name: by_seed for name, one in scores.items() if (by_seed := averages(one))}
    order = sorted(means, key=lambda name: -fmean(means[name].values()))
    p = adjusted_p([means[name] for name in order])
    groups = tie_groups(len(order), [pair for pair, value in p.items() if value < ALPHA])
    return dict(zip(order, letters_of(len(order), groups), strict=True))
