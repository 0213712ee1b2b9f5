"""The table of a study: mean and spread of every row and task, with the letters of tie groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from lora2_bench.records.record import Record
from lora2_bench.report.majority import majority_score
from lora2_bench.report.statistics.intervals import averages, spread
from lora2_bench.report.statistics.ties import groups_of
from lora2_bench.tune.compared import Scores
from lora2_bench.tune.ledger import Begun
from lora2_bench.tune.names import name_of
from lora2_bench.tune.study import Study


def score_table(study: Study, scores: Scores, majority: Mapping[str, float] | None = None) -> list[str]:
    """Mean ± sd of every row and task, and over tasks that all rows share or the primary pair does, with their letters.

    Rows without a run are left out. A column's letters of tie groups wait until all of its runs are in. The last
    line is what the `majority` class of each task scores, where that is given (`floors`).
    """
    if not scores:
        return ["No run has finished yet.", ""]
    common = [task for task, names in study.tasks.items() if set(names) == set(study.rows)]
    sets = [tasks for tasks in (common, study.shared(*study.comparisons[0])) if tasks]
    sets = [tasks for at, tasks in enumerate(sets) if tasks not in sets[:at]]
    columns = [_column(study, scores, [task]) for task in study.tasks] + [_column(study, scores, one) for one in sets]
    head = [*study.tasks, *(f"mean of {', '.join(one)}" for one in sets)]
    lines = [f"| method | {' | '.join(head)} |", "| --- |" + " ---: |" * len(head)]
    for row in study.rows:
        if row in scores:
            lines.append(f"| {name_of(row)} | {' | '.join(column.get(row, '–') for column in columns)} |")
    if majority:
        shown = [f"{majority[task]:.2f}" if task in majority else "–" for task in study.tasks]
        lines.append(f"| majority class | {' | '.join([*shown, *('–' for _ in sets)])} |")
    told = (
        "Mean ± standard deviation over seeds (seeds). Two rows without a common letter are told apart by paired t "
        "tests with Holm over all pairs of a column, at 5 %; the planned comparisons are another family. A column has "
        "letters once all its runs are in."
    )
    return [*lines, "", told, ""]


def _column(study: Study, scores: Scores, tasks: Sequence[str]) -> dict[str, str]:
    """Row -> what the table shows of it over these tasks, of those that have scores on all of them."""
    planned = [row for row in study.rows if all(row in study.tasks[task] for task in tasks)]
    found = {row: {task: scores[row][task] for task in tasks} for row in planned if _has_all(scores, row, tasks)}
    whole = len(found) == len(planned) and all(
        set(of) == set(study.seeds) for by_task in found.values() for of in by_task.values()
    )
    letters = groups_of(found) if whole else {}
    return {row: _score(averages(of), letters.get(row, "")) for row, of in found.items()}


def _has_all(scores: Scores, row: str, tasks: Sequence[str]) -> bool:
    return bool(tasks) and all(scores.get(row, {}).get(task) for task in tasks)


def _score(by_seed: Mapping[int, float], letters: str) -> str:
    if not by_seed:
        return "–"
    values = [by_seed[seed] for seed in sorted(by_seed)]
    sd = spread(values)
    return f"{fmean(values):.2f}" + ("" if sd is None else f" ± {sd:.2f}") + f" ({len(values)}) {letters}".rstrip()


def floors(begun: Begun, records: Mapping[str, Record]) -> dict[str, float]:
    """Task -> points of train's most frequent class for every dev row, by the records of its runs that tell them."""
    found = ((run.task, majority_score(records[run.id])) for run in begun.runs if run.id in records)
    return {task: floor for task, floor in found if floor is not None}
