"""The paper's tables from the runs of one backbone and data source, as Markdown, LaTeX and CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lora2_bench.experiment.suites import rows
from lora2_bench.files.writing import write_text
from lora2_bench.report import pages, times
from lora2_bench.report.exhibits import exhibits
from lora2_bench.report.grid import Grid, fill
from lora2_bench.report.pages import PROTOCOLS
from lora2_bench.report.paired import paired_sheets
from lora2_bench.report.runs import Run
from lora2_bench.report.sheet import PREAMBLE, Sheet, latex, markdown
from lora2_bench.report.times import Times


def runs_by_row(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Row's name -> its runs. A run may belong to no row; rows that are the same cells are one row."""
    found: dict[str, list[Run]] = {}
    by_method: dict[str, list[str]] = {}
    for name, spec in rows().items():
        by_method.setdefault(spec.method, []).append(name)
    fitting: dict[str, list[str]] = {}  # by science: the tasks and seeds of a row share it
    for run in runs:
        if run.science not in fitting:
            names = by_method.get(run.cell["method"]["name"], ())
            fitting[run.science] = [name for name in names if rows()[name].fits(run.cell)]
        for name in fitting[run.science]:
            found.setdefault(name, []).append(run)
    return found


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
        written += write_sheets(place, name, pages.sheets(grids), pages.CSV_COLUMNS, pages.csv_lines(grids))
    sheets = [times.times_sheet(filled.times, model, data)] if filled.times else []
    written += write_sheets(place, "table2", sheets, times.CSV_COLUMNS, times.csv_lines(filled.times, model, data))
    slots = [slot for grid in filled.grids["table1"] for row in grid.rows for slot in row.slots.values()]
    unread = passed_over & {run.id for slot in slots for run in slot.runs.values()}
    part = compared[(compared["model"] == model) & (compared["data"] == data)]
    lines = part.round(6).astype(object).where(part.notna(), "").to_numpy().tolist()
    sheets = paired_sheets(part, model, data, len(unread))
    return written + write_sheets(place, "comparisons", sheets, tuple(part.columns), lines, with_latex=False)


def write_sheets(
    place: Path,
    name: str,
    sheets: Sequence[Sheet],
    columns: Sequence[str],
    lines: Sequence[Sequence[Any]],
    *,
    with_latex: bool = True,
) -> list[Path]:
    """Write sheets as `NAME.md` and `.tex`, and `lines` as `.csv`; without sheets, remove what stands there."""
    paths = [place / f"{name}.{kind}" for kind in ("md", *(("tex",) if with_latex else ()), "csv")]
    if not sheets:
        for path in paths:
            path.unlink(missing_ok=True)
        return []
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *lines])
    texts = {
        "md": "\n".join(markdown(sheet) for sheet in sheets),
        "tex": PREAMBLE + "\n".join(latex(sheet) for sheet in sheets),
        "csv": text.getvalue(),
    }
    for path in paths:
        write_text(path, texts[path.suffix[1:]])
    return paths
