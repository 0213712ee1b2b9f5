"""The report: one HTML page with what was run, the tables, the figures, the audit and the command of every cell."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lora2_bench.files.writing import write_text
from lora2_bench.paper.audit.page import audit
from lora2_bench.paper.audit.page import markdown as audit_page
from lora2_bench.report.figures.chart import Plot
from lora2_bench.report.figures.data import slug
from lora2_bench.report.figures.files import current_figures
from lora2_bench.report.page.markup import box, from_markdown, inline
from lora2_bench.report.records import load_records
from lora2_bench.report.runs import Run
from lora2_bench.report.scores import over_seeds, scores
from lora2_bench.report.selection import Selection, select
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
    skipped: list[Path] = []
    selection = select(load_records(results, skipped))
    figures = current_figures(results, selection, at_most=DRAWN_AT_ONCE)
    path = folder / "index.html"
    write_text(path, page(selection, len(skipped), exhibits(results), figures, studies(results)))
    return [path]


def exhibits(results: Path) -> list[tuple[str, str]]:
    """Path and text of every Markdown table below `results/tables` that the page does not generate itself."""
    found = sorted((results / "tables").rglob("*.md"))
    return [
        (path.relative_to(results).as_posix(), path.read_text(encoding="utf-8", errors="replace"))
        for path in found
        if path.name not in ("scores.md", "empty.md")
    ]


def studies(results: Path) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Name, findings as Markdown, and (name, SVG) of the figures of every study below `results/studies`."""
    found = []
    for path in sorted((results / "studies").glob("*/FINDINGS.md")):
        drawn = sorted((path.parent / "figures").glob("*.svg"))
        svgs = [(one.stem, one.read_text(encoding="utf-8", errors="replace")) for one in drawn]
        found.append((path.parent.name, path.read_text(encoding="utf-8", errors="replace"), svgs))
    return found


def page(
    selection: Selection,
    unreadable: int,
    texts: Sequence[tuple[str, str]],
    figures: Sequence[tuple[Plot, str | None]],
    of_studies: Sequence[tuple[str, str, Sequence[tuple[str, str]]]] = (),
) -> str:
    """The whole page.

    Args:
        selection: the runs, and which of them count.
        unreadable: how many records could not be read.
        texts: exhibits, as path and Markdown.
        figures: each with its SVG, or None where it is not drawn yet.
        of_studies: as `studies` gives them.
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
        run=_what_was_run(selection.runs),
        unreadable=unreadable,
        tables=_score_tables(selection),
        exhibits=[(name, _exhibit(name, text)) for name, text in texts],
        studies=[_study(number, *study) for number, study in enumerate(of_studies)],
        figures=drawn,
        missing=len(figures) - len(drawn),
        audit=from_markdown(audit_page(audit()).split("\n", 1)[1], 3),
        cells=[_cell(run) for run in selection.runs],
    )


def _asset(name: str) -> Markup:
    return Markup((files("lora2_bench.report.page") / name).read_text(encoding="utf-8"))


def _what_was_run(runs: Sequence[Run]) -> dict[str, Any]:
    """Counts of cells, by place, machine and version, and the days on which the first and the last one finished."""
    counts = Counter((run.model, run.data, run.protocol, run.record.status) for run in runs)
    return {
        "cells": len(runs),
        "done": sum(run.done for run in runs),
        "dates": sorted(run.finished[:10] for run in runs if run.finished),
        "places": [(*key, count) for key, count in sorted(counts.items())],
        "machines": _counted(run.machine for run in runs),
        "versions": [(*str(key).split(" ", 1), count) for key, count in _counted(_versions(runs))],
    }


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


def _score_tables(selection: Selection) -> list[Markup]:
    """The method × task tables of each backbone and data source."""
    failed = Counter((run.model, run.data) for run in selection.runs if not run.done)
    parts = over_seeds(scores(selection)).groupby(["model", "data"])
    return [
        from_markdown(table_page(str(model), str(data), part, failed[str(model), str(data)]), 3)
        for (model, data), part in parts
    ]


def _study(number: int, name: str, text: str, svgs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A study's findings and figures as HTML; an SVG that is none is left out."""
    drawn = [(title, inline(svg, f"s{number}-{title}-", title)) for title, svg in svgs if "<svg" in svg]
    return {"name": name, "body": from_markdown(text, 3), "figures": drawn}


def _exhibit(name: str, text: str) -> Markup:
    """One exhibit below a heading: its own, or the file's name."""
    return from_markdown(text if text.lstrip().startswith("#") else f"# {Path(name).stem}\n\n{text}", 3)


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
        run.looks(run.protocol) if best else None,
        round(100 * last["score"], 2) if last else None,
        facts["seconds"],
        shlex.join(["python", "-m", "lora2_bench", *given]),
        {name: value for name, value in summary.items() if value not in (None, [])},
    ]
