"""The paper's tables with the verdict on each printed figure; an exhibit without a counting run is one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lora2_bench.experiment.suites import suites
from lora2_bench.report.page.blocks import Shown
from lora2_bench.report.runs import Run, grouped
from lora2_bench.report.selection import Selection
from lora2_bench.report.statistics.verdict import NOT_REPRODUCED, REPRODUCED, VERDICTS, WITHIN_NOISE
from lora2_bench.report.tables.commands import filling, suite_command
from lora2_bench.report.tables.exhibits import fill_exhibits
from lora2_bench.report.tables.grid import Entry, Grid
from lora2_bench.report.tables.layouts import exhibits
from lora2_bench.report.tables.sheets import column_label, signed, title_of

SIGNS = {REPRODUCED: "✓", WITHIN_NOISE: "≈", NOT_REPRODUCED: "✗"}
_OWN_ROWS = ("hub", "local")


@dataclass(frozen=True)
class Judgement:
    """One table of the paper on its own backbone and GLUE's rows.

    Attributes:
        title: of the table.
        counts: `3 reproduced, 2 within noise, ...`.
        header, lines: one line per row and a column per task that have a run; ours, printed, difference and sign.
        missing: rows without a run that counts.
        commands: what fills the gaps.
    """

    title: str
    counts: str
    header: list[str]
    lines: list[list[Shown]]
    missing: list[str]
    commands: list[str]


def paper_grids(selection: Selection) -> list[Grid]:
    """The grids of protocol `paper` that stand beside printed figures: the tables' own backbones on GLUE's rows."""
    backbones = {exhibit.suite.model for exhibit in exhibits().values()}
    found = []
    for (model, data), runs in grouped(selection.runs, "model", "data").items():
        if model in backbones and data in _OWN_ROWS:
            for grids in fill_exhibits(model, data, runs, selection.stale).grids.values():
                found += [grid for grid in grids if grid.protocol == "paper" and grid.is_papers and _counting(grid)]
    return found


def judgements(grids: Iterable[Grid]) -> list[Judgement]:
    """The tables that have a run."""
    return [_judgement(grid) for grid in grids]


def unbegun(grids: Iterable[Grid], runs: Iterable[Run]) -> list[tuple[str, str]]:
    """Title and command of every exhibit without a run that counts, and of other studies that nobody ran."""
    begun = {grid.exhibit.name for grid in grids}
    found = [
        (f"{exhibit.title}: {exhibit.subject}", suite_command(exhibit.suite, exhibit.suite.model, exhibit.suite.data))
        for exhibit in exhibits().values()
        if exhibit.name not in begun
    ]
    if not any(run.data in _OWN_ROWS and run.model == suites()["table2"].model for run in runs):
        suite = suites()["table2"]
        found.append(("Table 2: seconds per training step", suite_command(suite, suite.model, suite.data)))
    return found


def _counting(grid: Grid) -> bool:
    return any(slot.runs for row in grid.rows for slot in row.slots.values())


def _judgement(grid: Grid) -> Judgement:
    able = [row for row in grid.rows if any(slot.runs for slot in row.slots.values())]
    columns = [name for name in grid.columns if any(row.entries[name].mean is not None for row in able)]
    words: Counter[str] = Counter(
        entry.verdict.word for row in able for entry in row.entries.values() if entry.verdict is not None
    )
    return Judgement(
        title_of(grid),
        ", ".join(f"{words[word]} {word}" for word in VERDICTS if words[word]),
        ["method", *(column_label(name) for name in columns)],
        [[Shown(row.line.label), *(_place(row.entries[name]) for name in columns)] for row in able],
        [row.line.label for row in grid.rows if row not in able],
        filling(grid),
    )


def _place(entry: Entry) -> Shown:
    if entry.mean is None:
        return Shown("", "", entry.verdict.reason if entry.verdict else "")
    if entry.printed is None or entry.verdict is None:
        return Shown(f"{entry.mean:.2f}")
    sign = SIGNS.get(entry.verdict.word, "·")
    shift = signed(entry.difference) if entry.difference is not None else ""
    name = entry.verdict.word.replace(" ", "-")
    return Shown(f"{sign} {entry.mean:.2f} ({entry.printed}, {shift})", f"v-{name}", entry.verdict.reason)


def signs() -> Sequence[tuple[str, str]]:
    """Sign and meaning, for the legend."""
    return [*((sign, word) for word, sign in SIGNS.items()), ("·", "not comparable: point at it for the reason")]
