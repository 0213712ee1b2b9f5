"""Runs of a study as scores, and one row against another, paired by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora2_bench.records.record import Record
from lora2_bench.report.statistics.intervals import averages
from lora2_bench.report.statistics.significance import holm, t_test
from lora2_bench.tune.ledger import Begun, score_of

Scores = dict[str, dict[str, dict[int, float]]]
"""Row -> task -> seed -> points."""


@dataclass(frozen=True)
class Comparison:
    """One row minus another over the mean of the tasks and seeds that both have finished.

    Attributes:
        ours, other: the rows.
        tasks: those that both have.
        differences: one per seed.
    """

    ours: str
    other: str
    tasks: list[str]
    differences: list[float]

    @property
    def t_p(self) -> float | None:
        """Of the paired t test; None without a spread."""
        return t_test(self.differences) if self.differences else None


def compared(scores: Scores, ours: str, other: str, tasks: Sequence[str]) -> Comparison:
    """The comparison of two rows over those of these tasks that both have runs of."""
    shared = [task for task in tasks if scores.get(ours, {}).get(task) and scores.get(other, {}).get(task)]
    by_task = {
        task: {
            seed: scores[ours][task][seed] - scores[other][task][seed]
            for seed in scores[ours][task].keys() & scores[other][task].keys()
        }
        for task in shared
    }
    by_seed = averages(by_task) if by_task else {}
    return Comparison(ours, other, shared, [by_seed[seed] for seed in sorted(by_seed)])


def secondary(
    scores: Scores, pairs: Sequence[tuple[str, str]], tasks: Sequence[str]
) -> list[tuple[Comparison, float | None]]:
    """These comparisons, each with its p of the t test by Holm over all of them, None where there is none yet."""
    found = [compared(scores, *pair, tasks) for pair in pairs]
    adjusted = holm([1.0 if one.t_p is None else one.t_p for one in found])  # what cannot be tested yet stays in it
    return [(one, None if one.t_p is None else p) for one, p in zip(found, adjusted, strict=True)]


def scores_of(begun: Begun, records: Mapping[str, Record]) -> Scores:
    """Dev scores at the end of training of every finished run."""
    found: Scores = {}
    for run, record in begun.ended(records):
        if (score := score_of(record)) is not None:
            found.setdefault(run.row, {}).setdefault(run.task, {})[run.seed] = score
    return found
