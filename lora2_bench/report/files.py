"""The paper's tables from the runs of one backbone and data source, as Markdown, LaTeX and CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lora2_bench.report import pages, times
from lora2_bench.report.exhibits import exhibits
from lora2_bench.report.grid import Grid, fill
from lora2_bench.report.paired import BoundedReader, paired, paired_sheets
from lora2_bench.report.runs import Run
from lora2_bench.report.sheet import Sheet, latex, markdown
from lora2_bench.report.suites import Suite, rows
from lora2_bench.store import write_text


def runs_by_row(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Row's name -> its runs. A run may belong to no row; rows that are the same cells are one row."""
    found: dict[str, list[Run]] = {}
    by_method: dict[str, list[str]] = {}
    for name, spec in rows().items():
        by_method.setdefault(spec.method, []).append(name)
    for run in runs:
        for name in by_method.get(run.cell["method"]["name"], ()):
            if rows()[name].fits(run.cell):
                found.setdefault(name, []).append(run)
    return found


def has_any(suite: Suite, by_row: Mapping[str, Sequence[Run]]) -> bool:
    """Whether any run, finished or not, is one of the suite's rows and tasks."""
    return any(run.task in suite.tasks for row in suite.rows for run in by_row.get(row, ()))


def grids_of(
    name: str, model: str, data: str, by_row: Mapping[str, Sequence[Run]], stale: Mapping[str, str]
) -> list[Grid]:
    """An exhibit's grids, one per protocol that its runs have; none where it has no run."""
    exhibit = exhibits()[name]
    choosers = {
        run.protocol
        for line in exhibit.lines
        for run in by_row.get(line.spec.name, ())
        if run.task in exhibit.suite.tasks
    }
    protocols = [*(("paper", "last") if "paper" in choosers else ()), *(("clean",) if "clean" in choosers else ())]
    return [fill(exhibit, model, data, protocol, by_row, stale) for protocol in protocols]


def write_exhibits(
    place: Path,
    model: str,
    data: str,
    runs: Sequence[Run],
    stale: Mapping[str, str],
    frame: pd.DataFrame,
    reader: BoundedReader,
) -> list[Path]:
    """Write every exhibit that has any of its cells, and the comparisons, to `place`; returns the paths.

    An exhibit whose records are gone takes its files along, so that no old table stays.

    Args:
        place: the folder of this backbone and data source.
        model: their backbone.
        data: the source of their rows.
        runs: theirs.
        stale: id -> reason.
        frame: the scores of all runs.
        reader: of stored predictions.
    """
    by_row = runs_by_row(runs)
    written: list[Path] = []
    table1: list[Grid] = []
    for name in exhibits():
        grids = grids_of(name, model, data, by_row, stale)
        if name == "roberta_large" and model != "roberta_large":
            grids = []
        if name == "table1":
            table1 = grids
        sheets = pages.sheets(grids)
        written += _write(place, name, sheets, pages.CSV_COLUMNS, pages.csv_lines(grids))
    found = times.collect(by_row, stale) if has_any(times.suite(), by_row) else []
    sheets = [times.times_sheet(found, model, data)] if found else []
    written += _write(place, "table2", sheets, times.CSV_COLUMNS, times.csv_lines(found, model, data))
    before = len(reader.passed_over)
    compared = paired(frame[(frame["model"] == model) & (frame["data"] == data)], table1, reader)
    sheets = paired_sheets(compared, model, data, len(reader.passed_over) - before)
    lines = compared.round(6).astype(object).where(compared.notna(), "").to_numpy().tolist()
    return written + _write(place, "comparisons", sheets, tuple(compared.columns), lines, with_latex=False)


def _write(
    place: Path,
    name: str,
    sheets: Sequence[Sheet],
    columns: Sequence[str],
    lines: Sequence[Sequence[Any]],
    *,
    with_latex: bool = True,
) -> list[Path]:
    paths = [place / f"{name}.{kind}" for kind in ("md", *(("tex",) if with_latex else ()), "csv")]
    if not sheets:
        for path in paths:
            path.unlink(missing_ok=True)
        return []
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *lines])
    texts = {
        "md": "\n".join(markdown(sheet) for sheet in sheets),
        "tex": "% \\usepackage{booktabs}\n" + "\n".join(latex(sheet) for sheet in sheets),
        "csv": text.getvalue(),
    }
    for path in paths:
        write_text(path, texts[path.suffix[1:]])
    return paths
