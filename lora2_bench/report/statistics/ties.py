"""Groups of methods that corrected paired tests do not separate, in place of ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from string import ascii_lowercase

from lora2_bench.report.statistics.intervals import averages
from lora2_bench.report.statistics.significance import holm, t_test

ALPHA = 0.05
Scores = Mapping[str, Mapping[int, float]]
"""Task -> seed -> points."""


def tie_groups(means: Mapping[str, float], separated: Callable[[str, str], bool]) -> dict[str, str]:
    """Name -> letters; two names share one where no pair within their stretch of the ranking is separated.

    Args:
        means: name -> mean score; the ranking is from high to low.
        separated: whether two names are told apart.
    """
    order = sorted(means, key=lambda name: -means[name])
    stretches: list[tuple[int, int]] = []
    for start in range(len(order)):
        end = start
        while end + 1 < len(order) and not any(separated(order[one], order[end + 1]) for one in range(start, end + 1)):
            end += 1
        if not stretches or end > stretches[-1][1]:
            stretches.append((start, end))
    letters: dict[str, str] = dict.fromkeys(order, "")
    for index, (start, end) in enumerate(stretches):
        for name in order[start : end + 1]:
            letters[name] += ascii_lowercase[index % 26]
    return letters


def groups_of(scores: Mapping[str, Scores]) -> dict[str, str]:
    """Name -> letters by paired t tests of the averages over tasks, with Holm over all pairs at 5 %.

    A pair with fewer than two shared seeds, or without a spread, is not separated.

    Args:
        scores: name -> task -> seed -> points, the same tasks for all.
    """
    means = {name: by_seed for name, one in scores.items() if (by_seed := averages(one))}
    tests: dict[tuple[str, str], float] = {}
    for one, other in combinations(sorted(means), 2):
        shared = sorted(means[one].keys() & means[other].keys())
        differences = [means[one][seed] - means[other][seed] for seed in shared]
        p = t_test(differences) if differences else None
        if p is not None:
            tests[one, other] = p
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))

    def separated(one: str, other: str) -> bool:
        return adjusted.get((min(one, other), max(one, other)), 1.0) < ALPHA

    return tie_groups({name: sum(by.values()) / len(by) for name, by in means.items()}, separated)
