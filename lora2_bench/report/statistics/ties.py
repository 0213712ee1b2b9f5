"""Which of many methods paired tests separate, and the groups of those that they do not."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import numpy as np
from scipy import special

from lora2_bench.report.statistics.intervals import EQUAL, Floats

ALPHA = 0.05


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
