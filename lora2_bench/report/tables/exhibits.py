"""The paper's tables from the runs of one backbone and data source, as Markdown, LaTeX and CSV files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lora2_bench.report.runs import Run
from lora2_bench.report.selection import runs_by_row
from lora2_bench.report.tables import sheets
from lora2_bench.report.tables import step_times as times
from lora2_bench.report.tables.grid import Grid, fill
from lora2_bench.report.tables.layouts import exhibits
from lora2_bench.report.tables.paired_sheets import paired_sheets
from lora2_bench.report.tables.render import write_sheets
from lora2_bench.report.tables.sheets import PROTOCOLS
from lora2_bench.report.tables.step_times import Times


@dataclass(frozen=True)
class Filled:
    """Every exhibit of one backbone and data source.

    Attributes:
        model: the backbone.
        data: the source of its rows.
        grids: exhibit's name -> its grids, one per protocol that its runs have; none where it has no run.
        times: Table 2's rows; none without a run.
    """

    model: str
    data: str
    grids: Mapping[str, Sequence[Grid]]
    times: Sequence[Times]


def fill_exhibits(model: str, data: str, runs: Iterable[Run], stale: Mapping[str, str]) -> Filled:
    """The exhibits of these runs, all of one backbone and data source; `stale` is id -> reason."""
    by_row = runs_by_row(runs)
    grids: dict[str, list[Grid]] = {}
    for name, exhibit in exhibits().items():
        ran = [run for row in exhibit.suite.rows for run in by_row.get(row, ()) if run.task in exhibit.suite.tasks]
        choosers = {run.protocol for run in ran}
        protocols = [name for name in PROTOCOLS if ("clean" if name == "clean" else "paper") in choosers]
        if name == "roberta_large" and model != exhibit.suite.model:  # Table 1 has this layout's rows already
            protocols = []
        grids[name] = [fill(exhibit, model, data, protocol, by_row, stale) for protocol in protocols]
    found = times.collect(by_row, stale)
    return Filled(model, data, grids, found if any(slot.seen for one in found for slot in one.slots.values()) else [])


def write_exhibits(place: Path, filled: Filled, compared: pd.DataFrame, passed_over: Set[str]) -> list[Path]:
    """Write every exhibit that has any of its cells, and the comparisons, to the folder `place`; returns the paths.

    An exhibit whose records are gone takes its files along, so that no old table stays.

    Args:
        place: the folder.
        filled: what to write.
        compared: `paired.paired` of all folders.
        passed_over: ids of the cells whose predictions were not read.
    """
    model, data = filled.model, filled.data
    written: list[Path] = []
    for name, grids in filled.grids.items():
        written += write_sheets(place, name, sheets.sheets(grids), sheets.CSV_COLUMNS, sheets.csv_lines(grids))
    tables = [times.times_sheet(filled.times, model, data)] if filled.times else []
    written += write_sheets(place, "table2", tables, times.CSV_COLUMNS, times.csv_lines(filled.times, model, data))
    slots = [slot for grid in filled.grids["table1"] for row in grid.rows for slot in row.slots.values()]
    unread = passed_over & {run.id for slot in slots for run in slot.runs.values()}
    part = compared[(compared["model"] == model) & (compared["data"] == data)]
    lines = part.round(6).astype(object).where(part.notna(), "").to_numpy().tolist()
    tables = paired_sheets(part, model, data, len(unread))
    return written + write_sheets(place, "comparisons", tables, tuple(part.columns), lines, with_latex=False)
