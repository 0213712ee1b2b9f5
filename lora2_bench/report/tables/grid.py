"""Runs put into the places of an exhibit: which seeds count, what is missing and why, mean, rank and verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev

from lora2_bench.paper.printed import Printed, decimal
from lora2_bench.report.runs import Run
from lora2_bench.report.scores import counted
from lora2_bench.report.selection import MISSING, NOT_COMPARABLE
from lora2_bench.report.statistics.intervals import Interval, averages, mean_interval
from lora2_bench.report.statistics.verdict import Verdict, verdict
from lora2_bench.report.tables.layouts import AVERAGE, Exhibit, Line
from lora2_bench.report.tables.slots import EARLY, OLDER, SEEDS, UNEVEN, Slot, obstacles, slot_of


@dataclass(frozen=True)
class Entry:
    """One place of a table.

    Attributes:
        scores: task -> seed -> points; several tasks for an average.
        mean, sd: over seeds; sd is None for one seed, and for an average over different sets of seeds.
        marks: names of `MARKS`.
        interval: Student's t, 95 %, of the mean; without ends where the sd is None.
        looks: how often dev was scored for these best scores, `10-67` where runs differ; empty for other scores.
        printed: the paper's figure; None where it prints none, or none belongs here.
        verdict: on that figure; None where none is printed.
        rank: 1 for the best of its group and column, 2 for the second, else 0.
    """

    scores: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    mean: float | None = None
    sd: float | None = None
    marks: tuple[str, ...] = ()
    interval: Interval | None = None
    looks: str = ""
    printed: Printed | None = None
    verdict: Verdict | None = None
    rank: int = 0

    @property
    def seeds(self) -> tuple[int, ...]:
        """Every seed that counts."""
        return tuple(sorted({seed for runs in self.scores.values() for seed in runs}))

    @property
    def n(self) -> str:
        """Number of seeds, `2-5` where tasks differ."""
        return counted(len(runs) for runs in self.scores.values()) or "0"

    @property
    def difference(self) -> float | None:
        """Ours minus the printed figure."""
        return None if self.mean is None or self.printed is None else self.mean - float(self.printed.value)


@dataclass(frozen=True)
class GridRow:
    """One line of an exhibit with its entries by column, `average` included, and its slots by task."""

    line: Line
    entries: Mapping[str, Entry]
    slots: Mapping[str, Slot]

    def parameters(self, protocol: str) -> tuple[str, str, str]:
        """Adapter, head and active parameters; a range where tasks differ, nothing without a run.

        Active ones are counted at the step whose score `protocol` gives.
        """
        runs = [run for slot in self.slots.values() for run in slot.runs.values()]
        if not runs:
            return ("", "", "")
        fixed = [{run.parameters["adapter"] for run in runs}, {run.parameters["head"] for run in runs}]
        kinds = [*fixed, {run.active(protocol) for run in runs}]
        found = [f"{min(kind):,}" if len(kind) == 1 else f"{min(kind):,}–{max(kind):,}" for kind in kinds]
        return (found[0], found[1], found[2])


@dataclass(frozen=True)
class Grid:
    """An exhibit filled from the runs of one backbone, data source and protocol.

    Attributes:
        exhibit: its layout.
        model, data: whose runs these are.
        protocol: paper, last or clean.
        obstacles: why none of its scores is a counterpart of a printed figure; empty where they can be.
        rows: in the exhibit's order.
    """

    exhibit: Exhibit
    model: str
    data: str
    protocol: str
    obstacles: tuple[str, ...]
    rows: tuple[GridRow, ...] = ()

    @property
    def is_papers(self) -> bool:
        """Whether it may carry the table's name: the paper's backbone, on GLUE's own rows, from the backbone itself."""
        return self.model == self.exhibit.suite.model and self.data in ("local", "hub")

    @property
    def columns(self) -> tuple[str, ...]:
        """Its columns, the average last."""
        return (*(column.name for column in self.exhibit.columns), AVERAGE)


def fill(
    exhibit: Exhibit,
    model: str,
    data: str,
    protocol: str,
    by_row: Mapping[str, Sequence[Run]],
    stale: Mapping[str, str],
) -> Grid:
    """The exhibit's grid under `protocol` (paper, last, clean).

    Args:
        exhibit: the layout.
        model: the runs' backbone.
        data: the source of their rows; both name the grid and decide what is comparable.
        protocol: which score counts.
        by_row: row's name -> its runs, all of this backbone and data source.
        stale: id -> reason, as `stale_runs` gives it.
    """
    reasons = obstacles(model, data, "", protocol, backbone=exhibit.suite.model)
    if data.endswith("-init_from"):
        reasons.append("from another cell's adapter")
    grid = Grid(exhibit, model, data, protocol, tuple(reasons))
    chooser = "clean" if protocol == "clean" else "paper"
    made = []
    for line in exhibit.lines:
        runs = [run for run in by_row.get(line.spec.name, ()) if run.protocol == chooser]
        slots = {
            task: slot_of([run for run in runs if run.task == task], exhibit.suite.seeds, stale)
            for task in exhibit.suite.tasks
        }
        made.append(GridRow(line, _entries(grid, line, slots), slots))
    return replace(grid, rows=_ranked(made, grid.columns))


def _entries(grid: Grid, line: Line, slots: Mapping[str, Slot]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    by_task: dict[str, dict[int, float]] = {}
    beside: list[str] = []
    for task, slot in slots.items():
        names = grid.exhibit.columns_of(task)
        of_task = {seed: run.columns[grid.protocol] for seed, run in slot.runs.items()}
        of_place = [EARLY] if any(run.is_early(grid.protocol) for run in slot.runs.values()) else []
        of_place += [OLDER] if any(run.older for run in slot.runs.values()) else []
        beside += [mark for mark in of_place if mark not in beside]
        for name in names:
            scores = {seed: columns[name] for seed, columns in of_task.items() if name in columns}
            # A record without this split's numbers is none of this package's layout.
            marks = slot.marks if len(scores) == len(of_task) else (NOT_COMPARABLE,)
            shown = {task: scores} if scores else {}
            found[name] = _entry(grid, line, name, shown, (*marks, *of_place), _looks(grid, [slot]))
        whole = {seed: columns for seed, columns in of_task.items() if all(name in columns for name in names)}
        by_task[task] = {seed: fmean(columns[name] for name in names) for seed, columns in whole.items()}
    if not all(by_task.values()):
        by_task, marks = {}, (MISSING,)
    elif len({tuple(scores) for scores in by_task.values()}) > 1:
        marks = (UNEVEN, *beside)
    else:
        odd = any(set(slot.runs) != set(slot.states) for slot in slots.values())
        marks = (*((SEEDS,) if odd else ()), *beside)
    found[AVERAGE] = _entry(grid, line, AVERAGE, by_task, marks, _looks(grid, slots.values()))
    return {name: found[name] for name in grid.columns}


def _looks(grid: Grid, slots: Iterable[Slot]) -> str:
    looks = (run.looks(grid.protocol) for slot in slots for run in slot.runs.values())
    return counted(one for one in looks if one is not None)


def _entry(
    grid: Grid, line: Line, column: str, scores: Mapping[str, Mapping[int, float]], marks: tuple[str, ...], looks: str
) -> Entry:
    figure = line.figure(column)
    even = len({tuple(runs) for runs in scores.values()}) == 1
    per_seed = list(averages(scores).values()) if scores else []
    judged = None
    if figure is not None:
        reasons = list(grid.obstacles)
        if column == AVERAGE and (by_rule := line.average_by_rule) is not None:
            reasons.append(f"{figure} is not the average of its printed cells, {decimal(by_rule.value, 2)}")
        if scores and not even:
            reasons.append("its tasks have different sets of seeds")
        judged = verdict(float(figure.value), figure.digits, per_seed, obstacles=reasons)
    shown = figure if grid.is_papers else None
    if not scores:
        return Entry(marks=marks, printed=shown, verdict=judged)
    mean = fmean(fmean(runs.values()) for runs in scores.values())
    sd = stdev(per_seed) if even and len(per_seed) > 1 else None
    interval = mean_interval(per_seed) if even else Interval(mean, None, None, len(per_seed))
    return Entry(scores, mean, sd, marks, interval, looks, shown, judged)


def _ranked(made: Sequence[GridRow], columns: Iterable[str]) -> tuple[GridRow, ...]:
    """Best and second of each column within a group, by the two digits that are shown; equals share a rank."""
    entries = [dict(row.entries) for row in made]
    for group in {row.line.group for row in made}:
        places = [index for index, row in enumerate(made) if row.line.group == group]
        for column in columns:
            means = {index: entries[index][column].mean for index in places}
            shown = {index: round(mean, 2) for index, mean in means.items() if mean is not None}
            if len(shown) < 2:
                continue
            ranks = {value: rank for rank, value in enumerate(sorted(set(shown.values()), reverse=True)[:2], start=1)}
            for index, value in shown.items():
                entries[index][column] = replace(entries[index][column], rank=ranks.get(value, 0))
    return tuple(replace(row, entries=found) for row, found in zip(made, entries, strict=True))
