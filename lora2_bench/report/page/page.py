"""The report: one HTML page with what was run, the tables, the audit, the figures and every cell's command."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from lora2_bench.files.writing import write_text
from lora2_bench.paper.audit.page import audit
from lora2_bench.paper.audit.page import markdown as audit_page
from lora2_bench.report.figures.chart import Plot
from lora2_bench.report.figures.data import slug
from lora2_bench.report.figures.files import current_figures
from lora2_bench.report.page.markup import escaped, from_markdown, inline, script_data, table
from lora2_bench.report.records import load_records
from lora2_bench.report.runs import Run
from lora2_bench.report.scores import over_seeds, scores
from lora2_bench.report.selection import Selection, select
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
    selection = select(load_records(results))
    unreadable = sum(1 for _ in results.glob("cells/[!.]*/record.json")) - len(selection.runs)
    figures = current_figures(results, selection, at_most=DRAWN_AT_ONCE)
    path = folder / "index.html"
    write_text(path, page(selection, unreadable, exhibits(results), figures))
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
    selection: Selection,
    unreadable: int,
    texts: Sequence[tuple[str, str]],
    figures: Sequence[tuple[Plot, str | None]],
) -> str:
    """The whole page.

    Args:
        selection: the runs, and which of them count.
        unreadable: how many records could not be read.
        texts: exhibits, as path and Markdown.
        figures: each with its SVG, or None where that is still to be drawn.
    """
    bodies = {
        "run": _what_was_run(selection.runs, unreadable),
        "tables": _score_tables(selection),
        "exhibits": "".join(_exhibit(name, text) for name, text in texts),
        "figures": _figures(figures),
        "audit": from_markdown(audit_page(audit()).split("\n", 1)[1], 3),
        "cells": _cells(selection.runs),
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


def _what_was_run(runs: Sequence[Run], unreadable: int) -> str:
    if not runs:
        named = f"<p>{unreadable} record(s) could not be read.</p>" if unreadable else ""
        return f"{named}<p>No finished cell yet. Run one, then make the report again:</p><pre>{FIRST_COMMAND}</pre>"
    done = sum(run.done for run in runs)
    status = f"{done} finished, {len(runs) - done} failed, {unreadable} unreadable"
    dates = sorted(run.finished[:10] for run in runs if run.finished)
    when = f" Finished from {dates[0]} to {dates[-1]}." if dates else ""
    counts = Counter((run.model, run.data, run.protocol, run.record.status) for run in runs)
    what = table(
        ("backbone", "data", "protocol", "status", "cells"),
        [(*key, count) for key, count in sorted(counts.items())],
        "Cells by backbone, data, protocol and status",
    )
    machines = table(("machine", "cells"), _counted(run.machine for run in runs), "Cells by machine")
    versions = table(
        ("software", "version", "cells"),
        [(*str(key).split(" ", 1), count) for key, count in _counted(_versions(runs))],
        "Cells by software version",
    )
    return (
        f"<p>{len(runs) + unreadable} cells: {status}.{when}</p>{what}<h3>Machines</h3>{machines}"
        f"<h3>Versions</h3>{versions}"
    )


def _counted(values: Iterable[str]) -> list[tuple[str, int]]:
    return sorted(Counter(values).items())


def _versions(runs: Iterable[Run]) -> Iterable[str]:
    for run in runs:
        facts = run.record.run
        for name, version in facts.get("versions", {}).items():
            yield f"{name} {version}"
        code = facts.get("code")
        if code and code["sha"]:
            yield f"commit {code['sha'][:10]}" + (" with changes" if code["dirty"] else "")


def _score_tables(selection: Selection) -> str:
    """Method × task tables of every backbone and data source: the seam between tables and page."""
    failed = Counter((run.model, run.data) for run in selection.runs if not run.done)
    parts = over_seeds(scores(selection)).groupby(["model", "data"])
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


def _cells(runs: Sequence[Run]) -> str:
    """The filter, an empty table, and the data that the script fills it with."""
    if not runs:
        return ""
    data = script_data([_cell(run) for run in runs])
    return (
        '<p><label>Filter <input type="search" id="filter" placeholder="rte lora2 failed" autocomplete="off"></label> '
        '<span id="count" role="status"></span></p>'
        "<noscript><p>This list needs JavaScript; the records themselves are below <code>cells/</code>.</p></noscript>"
        '<div class="box" role="region" tabindex="0" aria-label="Cells"><table id="cell-table"></table></div>'
        '<p><button type="button" id="more" hidden>Show more</button></p>'
        f'<script type="application/json" id="cell-data">{data}</script>'
    )


def _cell(run: Run) -> list[Any]:
    """One row of the list of cells: what its columns show, its command, and a summary of its record."""
    record, result, facts = run.record, run.record.result, run.record.run
    best, last = result.get("best"), result.get("last")
    given = [part for part in facts["command"] if not part.startswith("results=")]
    names = ("parameters", "steps", "epochs", "ranks_kept", "ranks_initial")
    summary: dict[str, Any] = {name: value for name, value in result.items() if name in names}
    summary |= {"best": best, "last": last, "cut": record.cut, "error": record.error}
    summary |= {"finished": run.finished, "seconds": facts["seconds"], "seconds_per_step": run.seconds_per_step}
    return [
        run.id,
        record.status,
        run.model,
        run.data,
        run.label,
        run.task,
        run.protocol,
        run.seed,
        round(100 * best["score"], 2) if best else None,
        round(100 * last["score"], 2) if last else None,
        facts["seconds"],
        shlex.join(["python", "-m", "lora2_bench", *given]),
        {name: value for name, value in summary.items() if value not in (None, [])},
    ]
