"""The figure of a study's planned comparisons: the primary one, its tasks, and the secondary ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lora2_bench.records.record import Record
from lora2_bench.report.figures.chart import Difference, Forest
from lora2_bench.report.statistics.intervals import mean_interval
from lora2_bench.tune.compared import Comparison, Scores, compared, scores_of
from lora2_bench.tune.curves import draw_plots
from lora2_bench.tune.ledger import Begun, Folder
from lora2_bench.tune.names import name_of
from lora2_bench.tune.study import Study

_NOTE = (
    "Mean over seeds of the paired differences, each over the tasks that both rows have, with its 95 % interval "
    "(Student's t), unadjusted: FINDINGS.md has p and Holm's p."
)


def draw_differences(folder: Folder, study: Study, begun: Begun, records: Mapping[str, Record]) -> list[Path]:
    """Draw figures/differences of the runs that are in; returns its paths, none where no comparison has a pair."""
    found = differences(study, scores_of(begun, records))
    if not found:
        return []
    title = f"What was compared, as planned: study {study.name}"
    label = "difference in points of 100 × the task's metric on dev"
    return draw_plots(folder, [Forest(folder.path.name, "differences", title, _NOTE, found, label)])


def differences(study: Study, scores: Scores) -> tuple[Difference, ...]:
    """The planned comparisons that have a pair, the primary one first and its tasks below it."""
    found = []
    for number, (ours, other) in enumerate(study.comparisons):
        whole = compared(scores, ours, other, list(study.tasks))
        if whole.differences:
            found.append(_difference(whole, f"{name_of(ours)} − {name_of(other)}", is_chief=number == 0))
        parts = [(task, compared(scores, ours, other, [task])) for task in whole.tasks]
        if number == 0 and whole.differences and len(parts) > 1:
            found += [_difference(part, task, is_part=True) for task, part in parts if part.differences]
    return tuple(found)


def _difference(one: Comparison, label: str, *, is_chief: bool = False, is_part: bool = False) -> Difference:
    interval = mean_interval(one.differences)
    return Difference(label, interval.estimate, interval.low, interval.high, interval.n, is_chief, is_part)
