"""The report: one HTML page with the answer, the leaderboard, comparisons, costs, verdicts and all cells."""

from __future__ import annotations

import base64
import hashlib
import re
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
from lora2_bench.records.record import OWN
from lora2_bench.records.store import Store
from lora2_bench.report.answer import QUESTION, answer, judge
from lora2_bench.report.figures.chart import Style, styles
from lora2_bench.report.majority import majority_classes
from lora2_bench.report.page import blocks
from lora2_bench.report.page.cells import cell_data
from lora2_bench.report.page.gather import Gathered, gather
from lora2_bench.report.page.markup import box, from_markdown, inline
from lora2_bench.report.page.verdicts import judgements, paper_grids, signs, unbegun
from lora2_bench.report.page.versus import versus
from lora2_bench.report.predictions import BoundedReader, Reader
from lora2_bench.report.records import load_records
from lora2_bench.report.retention.plots import retention_plots
from lora2_bench.report.retention.settings import by_place, settings
from lora2_bench.report.retention.sheet import sheet
from lora2_bench.report.runs import Run, rows_and_study
from lora2_bench.report.selection import Selection
from lora2_bench.report.standing import Board, boards, task_name
from lora2_bench.report.tables.sheets import PROTOCOLS, column_label

FIRST_COMMAND = "python -m lora2_bench method=lora2 task=rte"
STUDY_COMMAND = "python -m lora2_bench.tune study=NAME"
PLANNED = (
    "That comparison was planned, and its p is for it alone. Tests below are of all pairs of methods; the planned ones "
    "are under “What was tuned”."
)
_SCRIPTS = ("tables.js", "plots.js", "versus.js", "cells.js", "page.js")
_TEMPLATES = Environment(
    loader=PackageLoader("lora2_bench.report.page", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.globals["box"] = box
_TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}


def write_report(results: Path) -> list[Path]:
    """Write `results/report/index.html` from the records below `results`; returns its path. Raises OSError.

    The same records and studies give the same bytes.
    """
    folder = results / "report"
    folder.mkdir(parents=True, exist_ok=True)
    skipped: list[Path] = []
    gathered = gather(load_records(results, skipped))
    path = folder / "index.html"
    reader = BoundedReader(results, gathered.selection.predictions)
    found = forgotten(gathered.selection, Store(results))
    write_text(path, page(gathered, len(skipped), reader, studies(results), found))
    return [path]


def studies(results: Path) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Name, findings as Markdown, and (name, SVG) of the figures of every study below `results/studies`."""
    found = []
    for path in sorted((results / "studies").glob("*/FINDINGS.md")):
        drawn = sorted((path.parent / "figures").glob("*.svg"))
        svgs = [(one.stem, one.read_text(encoding="utf-8", errors="replace")) for one in drawn]
        found.append((path.parent.name, path.read_text(encoding="utf-8", errors="replace"), svgs))
    return found


def forgotten(selection: Selection, store: Store) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Name, sheet as Markdown, and (name, SVG) of the figures of every place whose retention was measured."""
    places = by_place(settings(selection, store))
    if not places:
        return []
    from lora2_bench.report.figures.drawing import draw  # matplotlib takes 0.3 s to import

    style = styles(run.label for run in selection.runs)
    drawn = [(plot, draw(plot, style)[0].decode()) for plot in retention_plots(places)]
    return [
        (folder, sheet(folder, found), [(plot.name, svg) for plot, svg in drawn if plot.folder == folder])
        for folder, found in places.items()
    ]


def page(
    gathered: Gathered,
    unreadable: int,
    read: Reader,
    of_studies: Sequence[tuple[str, str, Sequence[tuple[str, str]]]] = (),
    of_retention: Sequence[tuple[str, str, Sequence[tuple[str, str]]]] = (),
) -> str:
    """The whole page.

    Args:
        gathered: the runs, which of them count, and their curves.
        unreadable: how many records could not be read.
        read: reads stored predictions, as far as it likes.
        of_studies: as `studies` gives them.
        of_retention: as `forgotten` gives them.
    """
    selection = gathered.selection
    found = boards(selection)
    _read_evenly(found, read)
    style = styles(run.label for run in selection.runs)
    grids = paper_grids(selection)
    labels = {name: column_label(name) for grid in grids for name in grid.columns}
    judged = judge(grids, labels)
    planned = {name: planned_answer(text) for name, text, _ in of_studies}
    answers = [planned.get(rows_and_study(board.data)[1]) or answer(board, judged) for board in found]
    shown = [_block(*pair, gathered, style, read) for pair in zip(found, answers, strict=True)]
    css, script = _asset("page.css"), Markup("").join(_asset(name) for name in _SCRIPTS)
    checks = audit()
    return _TEMPLATES.get_template("page.html").render(
        policy=_policy(css, script),
        style=css,
        script=script,
        question=QUESTION,
        no_answer=answer(None, judged),
        first_command=FIRST_COMMAND,
        study_command=STUDY_COMMAND,
        run=_what_was_run(selection.runs),
        unreadable=unreadable,
        blocks=shown,
        places=list(dict.fromkeys((board.folder, f"{board.model}, {board.data} data") for board in found)),
        protocols=[(name, text.split(" (")[0]) for name, text in PROTOCOLS.items() if _any(found, name)],
        versus=[versus(board, read) for board in found],
        studies=[_study(f"s{number}", *study) for number, study in enumerate(of_studies)],
        retention=[_study(f"f{number}", *one) for number, one in enumerate(of_retention)],
        judgements=judgements(grids),
        signs=signs(),
        unbegun=unbegun(grids, selection.runs),
        audit_counts=", ".join(
            f"{count} {word}" for word, count in Counter(one.verdict for one in checks).most_common()
        ),
        audit=from_markdown(audit_page(checks).split("\n", 1)[1], 4),
        cells=cell_data(selection) if selection.runs else None,
    )


def planned_answer(findings: str) -> list[str]:
    """A study's question, and what its findings say of the primary comparison, which was planned to answer it."""
    _, _, after = findings.partition("## The primary comparison\n")
    section = after.partition("\n## ")[0].partition("\n|")[0]
    found = [line.strip("* ") for line in section.splitlines() if line.strip()]
    asked = re.search(r"^Question: (i.*?\?)", findings, re.MULTILINE)
    question = [asked[1][0].upper() + asked[1][1:]] if asked else []
    return [*question, *found, PLANNED] if found else []


def _any(found: Iterable[Board], protocol: str) -> bool:
    return any(board.protocol == protocol for board in found)


def _asset(name: str) -> Markup:
    return Markup((files("lora2_bench.report.page") / name).read_text(encoding="utf-8"))


def _policy(sheet: str, script: str) -> str:
    """A content security policy that lets this style sheet and this script in, and nothing else."""

    def hashed(text: str) -> str:
        digest = hashlib.sha256(f"\n{text}".encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    allowed = f"default-src 'none'; style-src {hashed(sheet)}; script-src {hashed(script)}"
    return f"{allowed}; base-uri 'none'; form-action 'none'"


def _read_evenly(found: Sequence[Board], read: Reader) -> None:
    """Ask for predictions of the board that answers first, small tasks first and seed by seed.

    What a bounded reader has room for is then whole pairs, not one method's runs.
    """
    for board in found:
        wanted = [(board.tasks.index(run.task), run) for one in board.entrants for run in one.all_runs]
        able = [(at, run) for at, run in wanted if not run.record.spec.is_regression]
        for _, run in sorted(able, key=lambda pair: (_dev_rows(pair[1]), pair[1].seed, pair[0])):
            read(run.id)


def _dev_rows(run: Run) -> int:
    rows = run.record.result["data"]["rows"]
    return sum(rows.get(split, 0) for split in run.record.spec.dev_splits)


def _block(
    board: Board, sentences: list[str], gathered: Gathered, style: dict[str, Style], read: Reader
) -> dict[str, Any]:
    """One board as the template takes it."""
    every = [run for one in board.entrants for run in one.all_runs]
    tests = len(board.p)
    return {
        "board": board,
        "name": f"{board.model}, {board.data} data; {PROTOCOLS[board.protocol]}".replace("`", ""),
        "answer": sentences,
        "figures": blocks.figures(board, style),
        "legend": blocks.legend(board, style),
        "leaderboard": blocks.leaderboard(board),
        "averaged": ", ".join(map(task_name, board.averaged)),
        "tests": f"{tests} comparison{'' if tests == 1 else 's'}",
        "tasks": [task_name(task) for task in board.tasks],
        "by_task": blocks.by_task(board, majority_classes(every, read)),
        "costs": blocks.costs(board),
        "curves": blocks.learning(board, gathered.curves, style) if board.protocol != "last" else [],
        "curves_of": "last paper" if board.protocol == "paper" else board.protocol,
        "not_glue": board.data.startswith(("mini", OWN)) or "-sample" in board.data,
    }


def _study(prefix: str, name: str, text: str, svgs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    body = from_markdown(text if text.lstrip().startswith("#") else f"# {name}\n\n{text}", 3)
    drawn = [(title, inline(svg, f"{prefix}-{at}-", title)) for at, (title, svg) in enumerate(svgs)]
    return {"name": name, "body": body, "figures": drawn}


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
