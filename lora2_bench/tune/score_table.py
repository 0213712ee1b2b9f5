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


def score_table(
    study: Study, scores: Scores, majority: Mapping[str, float] | None = None, sizes: Mapping[str, str] | None = None
) -> list[str]:
    """Mean ± sd of every row and task, and over tasks that all rows share or the primary pair does, with their letters.

    Rows without a run are left out. A column's letters of tie groups wait until all of its runs are in. The last
    line is what the `majority` class of each task scores, where that is given (`floors`); `sizes` (`parameters`) stand
    beside the names.
    """
    if not scores:
        return ["No run has finished yet.", ""]
    common = [task for task, names in study.tasks.items() if set(names) == set(study.rows)]
    sets = [tasks for tasks in (common, study.shared(*study.comparisons[0])) if tasks]
    sets = [tasks for at, tasks in enumerate(sets) if tasks not in sets[:at]]
    columns = [_column(study, scores, [task]) for task in study.tasks] + [_column(study, scores, one) for one in sets]
    if sizes:
        columns.insert(0, dict(sizes))
    head = [*(["parameters"] if sizes else []), *study.tasks, *(f"mean of {', '.join(one)}" for one in sets)]
    lines = [f"| method | {' | '.join(head)} |", "| --- |" + " ---: |" * len(head)]
    for row in study.rows:
        if row in scores:
            lines.append(f"| {name_of(row)} | {' | '.join(column.get(row, '–') for column in columns)} |")
    if majority:
        shown = ["0"] if sizes else []
        shown += [f"{majority[task]:.2f}" if task in majority else "–" for task in study.tasks]
        lines.append(f"| majority class | {' | '.join([*shown, *('–' for _ in sets)])} |")
    told = (
        "Mean ± standard deviation over seeds (seeds). Two rows without a common letter are told apart by paired t "
        "tests with Holm over all pairs of a column, at 5 %; a common letter is not equality. The planned comparisons "
        "are another family. A column has letters once all its runs are in."
    )
    if sizes:
        told += (
            " Parameters are the method's own, and after an arrow those left at the end (mean over runs); every row "
            "trains a head beside them."
        )
    return [*lines, "", told, ""]


def parameters(begun: Begun, records: Mapping[str, Record]) -> dict[str, str]:
    """Row -> trained parameters but for the head, as `41k`, and what is left of them at the end, as `83k → 41k`."""
    trained: dict[str, int] = {}
    left: dict[str, list[int]] = {}
    for run, record in begun.ended(records):
        if record.is_done and (last := record.result.get("last")) is not None:
            trained[run.row] = record.result["parameters"]["adapter"]
            left.setdefault(run.row, []).append(last.get("active", trained[run.row]))
    return {
        row: " → ".join(dict.fromkeys((_short(count), _short(round(fmean(left[row]))))))
        for row, count in trained.items()
    }


def _short(count: int) -> str:
    if count >= 10**6:
        return f"{count / 1e6:.1f}M"
    return f"{count / 1e3:.0f}k" if count >= 1000 else str(count)


def told_apart(study: Study, scores: Scores, one: str, other: str, task: str) -> bool | None:
    """Whether two rows have no common letter in a task's column; None while it has none."""
    letters = _letters(study, _found(study, scores, [task]), [task])
    return None if one not in letters or other not in letters else not {*letters[one]} & {*letters[other]}


def _column(study: Study, scores: Scores, tasks: Sequence[str]) -> dict[str, str]:
    """Row -> what the table shows of it over these tasks, of those that have scores on all of them."""
    found = _found(study, scores, tasks)
    letters = _letters(study, found, tasks)
    return {row: _score(averages(of), letters.get(row, "")) for row, of in found.items()}


def _letters(study: Study, found: Scores, tasks: Sequence[str]) -> dict[str, str]:
    """Row -> its letters over these tasks, of what was `_found`; nothing until all runs of the column are in."""
    whole = len(found) == len(_planned(study, tasks)) and all(
        set(of) == set(study.seeds) for by_task in found.values() for of in by_task.values()
    )
    return groups_of(found) if whole else {}


def _found(study: Study, scores: Scores, tasks: Sequence[str]) -> Scores:
    """The rows that have scores on all of these tasks."""
    planned = _planned(study, tasks)
    return {row: {task: scores[row][task] for task in tasks} for row in planned if _has_all(scores, row, tasks)}


def _planned(study: Study, tasks: Sequence[str]) -> list[str]:
    return [row for row in study.rows if all(row in study.tasks[task] for task in tasks)]


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
    found = ((run.task, majority_score(record)) for run, record in begun.ended(records))
    return {task: floor for task, floor in found if floor is not None}
