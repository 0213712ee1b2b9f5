"""The report: one HTML page with what was run, the tables, the figures, the audit and the command of every cell."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lora2_bench.files.writing import write_text
from lora2_bench.paper.audit.page import audit
from lora2_bench.paper.audit.page import markdown as audit_page
from lora2_bench.records.record import Record
from lora2_bench.report.figures.chart import Plot
from lora2_bench.report.figures.data import slug
from lora2_bench.report.figures.files import current_figures
from lora2_bench.report.page.markup import box, from_markdown, inline
from lora2_bench.report.records import load_records
from lora2_bench.report.scores import data_name, over_seeds, scores
from lora2_bench.report.tables.overview import markdown as table_page

DRAWN_AT_ONCE = 12  # missing figures that a report draws itself; where there are more, it names `make figures`
FIRST_COMMAND = "python -m lora2_bench method=lora2 task=rte"
_TEMPLATES = Environment(
    loader=PackageLoader("lora2_bench.report.page", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.globals["box"] = box
_TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":")}


def write_report(results: Path) -> list[Path]:
    """Write `results/report/index.html` from the records below `results`; returns its path. Raises OSError.

    The same records, tables and figures give the same bytes.
    """
    folder = results / "report"
    folder.mkdir(parents=True, exist_ok=True)
    records = load_records(results)
    unreadable = sum(1 for _ in results.glob("cells/[!.]*/record.json")) - len(records)
    frame = scores(records)
    figures = current_figures(results, records, frame, at_most=DRAWN_AT_ONCE)
    path = folder / "index.html"
    write_text(path, page(records, frame, unreadable, exhibits(results), figures))
    return [path]


def exhibits(results: Path) -> list[tuple[str, str]]:
    """Path and text of every Markdown table below `results/tables` that the page does not generate itself."""
    found = sorted((results / "tables").rglob("*.md"))
    return [
        (path.relative_to(results).as_posix(), path.read_text(encoding="utf-8", errors="replace"))
        for path in found
        if path.name not in ("scores.md", "empty.md")
    ]


def page(
    records: Sequence[Record],
    frame: pd.DataFrame,
    unreadable: int,
    texts: Sequence[tuple[str, str]],
    figures: Sequence[tuple[Plot, str | None]],
) -> str:
    """The whole page.

    Args:
        records: finished and failed cells.
        frame: their `scores`.
        unreadable: number of records that could not be read.
        texts: exhibits, as path and Markdown.
        figures: each with its SVG, or None where it is not drawn yet.
    """
    drawn = [
        {"plot": plot, "svg": inline(svg, f"f{number}-", plot.title), "folder": slug(plot.folder)}
        for number, (plot, svg) in enumerate(figures)
        if svg is not None
    ]
    return _TEMPLATES.get_template("page.html").render(
        style=_asset("page.css"),
        script=_asset("page.js"),
        first_command=FIRST_COMMAND,
        run=_what_was_run(records),
        unreadable=unreadable,
        tables=_score_tables(records, frame),
        exhibits=[(name, _exhibit(name, text)) for name, text in texts],
        figures=drawn,
        missing=len(figures) - len(drawn),
        audit=from_markdown(audit_page(audit()).split("\n", 1)[1], 3),
        cells=[_cell(record) for record in records],
    )


def _asset(name: str) -> Markup:
    return Markup((files("lora2_bench.report.page") / name).read_text(encoding="utf-8"))


def _what_was_run(records: Sequence[Record]) -> dict[str, Any]:
    """Counts of cells, by place, machine and version, and the days on which the first and the last one finished."""
    counts = Counter((*_place(record), record.cell["protocol"]["name"], record.status) for record in records)
    return {
        "cells": len(records),
        "done": sum(record.is_done for record in records),
        "dates": sorted(str(record.run["finished"])[:10] for record in records if record.run.get("finished")),
        "places": [(*key, count) for key, count in sorted(counts.items())],
        "machines": _counted(_machine(record) for record in records),
        "versions": [(*str(key).split(" ", 1), count) for key, count in _counted(_versions(records))],
    }


def _place(record: Record) -> tuple[str, str]:
    return str(record.cell["model"]["name"]), data_name(record)


def _counted(values: Iterable[str]) -> list[tuple[str, int]]:
    return sorted(Counter(values).items())


def _machine(record: Record) -> str:
    hardware = record.run.get("hardware") or {}
    parts = [hardware.get("gpu"), hardware.get("processor"), hardware.get("machine")]
    parts += [f"{name}: {hardware[name]}" for name in ("cores", "threads") if hardware.get(name)]
    return ", ".join(str(part) for part in parts if part) or "not recorded"


def _versions(records: Iterable[Record]) -> Iterable[str]:
    for record in records:
        for name, version in (record.run.get("versions") or {}).items():
            yield f"{name} {version}"
        code = record.run.get("code") or {}
        if code.get("sha"):
            yield f"commit {str(code['sha'])[:10]}" + (" with changes" if code.get("dirty") else "")


def _score_tables(records: Sequence[Record], frame: pd.DataFrame) -> list[Markup]:
    """The method × task tables of each backbone and data source."""
    failed = Counter(_place(record) for record in records if not record.is_done)
    parts = over_seeds(frame).groupby(["model", "data"])
    return [
        from_markdown(table_page(str(model), str(data), part, failed[str(model), str(data)]), 3)
        for (model, data), part in parts
    ]


def _exhibit(name: str, text: str) -> Markup:
    """One exhibit below a heading: its own, or the file's name."""
    return from_markdown(text if text.lstrip().startswith("#") else f"# {Path(name).stem}\n\n{text}", 3)


def _cell(record: Record) -> list[Any]:
    """One row of the list of cells: what its columns show, its command, and a summary of its record."""
    cell, result, run = record.cell, record.result, record.run
    model, data = _place(record)
    best, last = result.get("best"), result.get("last")
    given = [str(part) for part in run.get("command") or [] if not str(part).startswith("results=")]
    names = ("parameters", "steps", "epochs", "ranks_kept", "ranks_initial")
    summary: dict[str, Any] = {name: result[name] for name in names if name in result}
    summary |= {"best": best, "last": last, "cut": record.cut, "error": record.error}
    summary |= {name: run.get(name) for name in ("finished", "seconds", "seconds_per_step")}
    return [
        record.id,
        record.status,
        model,
        data,
        record.label,
        cell["task"],
        cell["protocol"]["name"],
        cell["seed"],
        round(100 * best["score"], 2) if best else None,
        round(100 * last["score"], 2) if last else None,
        run.get("seconds"),
        shlex.join(["python", "-m", "lora2_bench", *given]),
        {name: value for name, value in summary.items() if value not in (None, [])},
    ]
