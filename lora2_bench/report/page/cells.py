"""Every cell as data for the page's list, column by column, each text kept once."""

from __future__ import annotations

import shlex
from typing import Any

from lora2_bench.report.runs import Run
from lora2_bench.report.selection import Selection

COLUMNS = ("cell", "status", "backbone", "data", "method", "task", "protocol", "seed", "best", "looks at dev", "last",
           "seconds", "parameters", "counts", "finished", "command", "error")  # fmt: skip
SHOWN = 14
"""So many columns stand in the list, the others in what a cell's button opens."""
_TEXTS = frozenset({"status", "backbone", "data", "method", "task", "protocol", "counts", "finished", "error"})


def cell_data(selection: Selection) -> dict[str, Any]:
    """`columns`, `shown` (how many are in the list), `texts` (column -> its texts) and `rows`.

    A row's text in such a column is a position in its texts: 5,000 rows then take a third.
    """
    counting = {run.id for run in selection.shown()}
    rows = [_row(run, selection, run.id in counting) for run in selection.runs]
    texts: dict[int, dict[str, int]] = {at: {} for at, name in enumerate(COLUMNS) if name in _TEXTS}
    for row in rows:
        for at, known in texts.items():
            row[at] = known.setdefault(row[at], len(known))
    return {
        "columns": COLUMNS,
        "shown": SHOWN,
        "texts": {at: list(known) for at, known in texts.items()},
        "rows": rows,
    }


def _row(run: Run, selection: Selection, counts: bool) -> list[Any]:
    result, facts = run.record.result, run.record.run
    best, last = result.get("best"), result.get("last")
    given = [part for part in facts["command"] if not part.startswith("results=")]
    return [
        run.id,
        run.record.status,
        run.model,
        run.data,
        run.label,
        run.task,
        run.protocol,
        run.seed,
        round(100 * best["score"], 2) if best else None,
        run.looks(run.protocol) if best else None,
        round(100 * last["score"], 2) if last else None,
        round(facts["seconds"], 1),
        run.parameters["adapter"],
        ("yes, by code that has changed since" if run.older else "yes") if counts else _why(run, selection),
        run.finished,
        shlex.join(["python", "-m", "lora2_bench", *given]),
        run.cause,
    ]


def _why(run: Run, selection: Selection) -> str:
    """Why a run is in no table of this page."""
    return "no: failed" if not run.done else f"no: {selection.marks(run) or 'other settings than those shown'}"
