"""The report: one HTML page with what was run, the tables, the audit, the figures and every cell's command."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from lora2_bench.files.writing import write_text
from lora2_bench.paper.audit.page import audit
from lora2_bench.paper.audit.page import markdown as audit_page
from lora2_bench.records.record import Record
from lora2_bench.report.figures.chart import Plot
from lora2_bench.report.figures.data import slug
from lora2_bench.report.figures.files import current_figures
from lora2_bench.report.page.markup import escaped, from_markdown, inline, script_data, table
from lora2_bench.report.records import load_records
from lora2_bench.report.scores import data_name, over_seeds, scores
from lora2_bench.report.tables.overview import markdown as table_page

DRAWN_AT_ONCE = 12  # figures that a report draws itself; more are left to `make figures`, which takes longer
FIRST_COMMAND = "python -m lora2_bench method=lora2 task=rte"
_SECTIONS = {
    "run": "What was run",
    "tables": "Tables",
    "exhibits": "Exhibits",
    "figures": "Figures",
    "audit": "The paper, audited",
    "cells": "Cells",
}


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
    """Path and text of every Markdown table below `results/tables` that this page does not make itself."""
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
        frame: their `aggregate.scores`.
        unreadable: how many records could not be read.
        texts: exhibits, as path and Markdown.
        figures: each with its SVG, or None where that is still to be drawn.
    """
    bodies = {
        "run": _what_was_run(records, unreadable),
        "tables": _score_tables(records, frame),
        "exhibits": "".join(_exhibit(name, text) for name, text in texts),
        "figures": _figures(figures),
        "audit": from_markdown(audit_page(audit()).split("\n", 1)[1], 3),
        "cells": _cells(records),
    }
    shown = {name: body for name, body in bodies.items() if body}
    links = "".join(f'<li><a href="#{name}">{_SECTIONS[name]}</a></li>' for name in shown)
    sections = "".join(
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{_SECTIONS[name]}</h2>'
        f"{body}</section>"
        for name, body in shown.items()
    )
    parts = {"style": _asset("page.css"), "script": _asset("page.js"), "links": links, "sections": sections}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("page.html"))


def _asset(name: str) -> str:
    return (files("lora2_bench.report.page") / name).read_text(encoding="utf-8")


def _what_was_run(records: Sequence[Record], unreadable: int) -> str:
    if not records:
        named = f"<p>{unreadable} record(s) could not be read.</p>" if unreadable else ""
        return f"{named}<p>No finished cell yet. Run one, then make the report again:</p><pre>{FIRST_COMMAND}</pre>"
    done = [record for record in records if record.is_done]
    status = f"{len(done)} finished, {len(records) - len(done)} failed, {unreadable} unreadable"
    dates = sorted(str(record.run.get("finished", ""))[:10] for record in records if record.run.get("finished"))
    when = f" Finished from {dates[0]} to {dates[-1]}." if dates else ""
    counts = Counter((*_place(record), record.cell["protocol"]["name"], record.status) for record in records)
    what = table(
        ("backbone", "data", "protocol", "status", "cells"),
        [(*key, count) for key, count in sorted(counts.items())],
        "Cells by backbone, data, protocol and status",
    )
    machines = table(("machine", "cells"), _counted(_machine(record) for record in records), "Cells by machine")
    versions = table(
        ("software", "version", "cells"),
        [(*str(key).split(" ", 1), count) for key, count in _counted(_versions(records))],
        "Cells by software version",
    )
    return (
        f"<p>{len(records) + unreadable} cells: {status}.{when}</p>{what}<h3>Machines</h3>{machines}"
        f"<h3>Versions</h3>{versions}"
    )


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
        code = record.run.get("code")
        if code and code["sha"]:
            yield f"commit {code['sha'][:10]}" + (" with changes" if code["dirty"] else "")


def _score_tables(records: Sequence[Record], frame: pd.DataFrame) -> str:
    """Method × task tables of every backbone and data source: the seam between tables and page."""
    failed = Counter(_place(record) for record in records if not record.is_done)
    parts = over_seeds(frame).groupby(["model", "data"])
    return "".join(
        from_markdown(table_page(str(model), str(data), part, failed[str(model), str(data)]), 3)
        for (model, data), part in parts
    )


def _exhibit(name: str, text: str) -> str:
    """One exhibit; its folder, which is backbone and data, stands above it, and its file below."""
    if not text.lstrip().startswith("#"):
        text = f"# {Path(name).stem}\n\n{text}"
    return f"{from_markdown(text, 3)}<p><small>From <code>{escaped(name)}</code>, as last made.</small></p>"


def _figures(figures: Sequence[tuple[Plot, str | None]]) -> str:
    parts: list[str] = []
    missing = sum(svg is None for _, svg in figures)
    if missing:
        parts.append(
            f"<p>{missing} of {len(figures)} figures are missing or older than the records. Draw them, then make the "
            "report again:</p><pre>python -m lora2_bench.report figures</pre>"
        )
    folder = ""
    for number, (plot, svg) in enumerate(figures):
        if svg is None:
            continue
        if plot.folder != folder:
            folder = plot.folder
            parts.append(f"<h3>{escaped(folder)}</h3>")
        place = f"figures/{slug(plot.folder)}/{plot.name}"
        parts.append(
            f'<figure data-protocol="{plot.protocol}"><div class="box" role="region" tabindex="0" '
            f'aria-label="{escaped(plot.title)}">{inline(svg, f"f{number}-", plot.title)}</div>'
            f"<figcaption>Also as <code>{escaped(place)}.svg</code> and <code>.png</code></figcaption></figure>"
        )
    return "".join(parts)


def _cells(records: Sequence[Record]) -> str:
    """The filter, an empty table, and the data that the script fills it with."""
    if not records:
        return ""
    data = script_data([_cell(record) for record in records])
    return (
        '<p><label>Filter <input type="search" id="filter" placeholder="rte lora2 failed" autocomplete="off"></label> '
        '<span id="count" role="status"></span></p>'
        "<noscript><p>This list needs JavaScript; the records themselves are below <code>cells/</code>.</p></noscript>"
        '<div class="box" role="region" tabindex="0" aria-label="Cells"><table id="cell-table"></table></div>'
        '<p><button type="button" id="more" hidden>Show more</button></p>'
        f'<script type="application/json" id="cell-data">{data}</script>'
    )


def _cell(record: Record) -> list[Any]:
    """One row of the list of cells: what its columns show, its command, and a summary of its record."""
    cell, result, run = record.cell, record.result, record.run
    model, data = _place(record)
    best, last = result.get("best"), result.get("last")
    given = [str(part) for part in run.get("command") or [] if not str(part).startswith("results=")]
    names = ("parameters", "steps", "epochs", "ranks_kept", "ranks_initial")
    summary: dict[str, Any] = {name: value for name, value in result.items() if name in names}
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
