"""LoRA² against each baseline of its group in Table 1, paired by task and seed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import pandas as pd

from lora2_bench.paper.tables import Row
from lora2_bench.report.comparisons import COLUMNS, compare
from lora2_bench.report.predictions import Reader
from lora2_bench.report.tables.grid import Grid
from lora2_bench.report.tables.layouts import Line, exhibits
from lora2_bench.report.tables.render import Sheet, Text
from lora2_bench.report.tables.sheets import INTERVAL_RESAMPLES, PROTOCOLS, name_of, signed


def paired(frame: pd.DataFrame, grids: Iterable[Grid], correctness: Reader | None) -> pd.DataFrame:
    """Comparisons of LoRA² with every other method of its group, full fine-tuning among them; only runs that count.

    Args:
        frame: all scores, as `scores.scores`.
        grids: Table 1's, of any backbones, data sources and protocols.
        correctness: reads predictions; None for no McNemar test.

    Returns:
        As `comparisons.compare`; where a grid is the paper's own table, `claimed` is the printed difference.
    """
    lines = exhibits()["table1"].lines
    parts = []
    counted: dict[tuple[bool, str], set[str]] = {}
    for grid in grids:
        for row in grid.rows:
            ids = {run.id for slot in row.slots.values() for run in slot.runs.values()}
            counted.setdefault((grid.is_papers, row.line.spec.name), set()).update(ids)
    for papers, ours in product((True, False), (line for line in lines if line.spec.method == "lora2")):
        group = [line for line in lines if line.group in (ours.group, "full")]
        ids = set().union(*(counted.get((papers, line.spec.name), ()) for line in group))
        claims = _claims(ours, group) if papers else None
        chosen = frame[frame["id"].isin(ids)]
        parts.append(
            compare(chosen, ours.spec.label, correctness=correctness, claims=claims, resamples=INTERVAL_RESAMPLES)
        )
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


def _claims(ours: Line, others: Iterable[Line]) -> dict[tuple[str, str], float]:
    """(other method's label, task or average) -> the difference that the paper prints."""
    found: dict[tuple[str, str], float] = {}
    for other in others:
        mine, theirs = ours.printed, other.printed
        if other is ours or mine is None or theirs is None:
            continue
        found[other.spec.label, "average"] = float(mine.average.value - theirs.average.value)
        for task in mine.tasks:
            found[other.spec.label, task] = _difference(mine, theirs, task)
    return found


def _difference(mine: Row, theirs: Row, task: str) -> float:
    return float(mine.score(task).value - theirs.score(task).value)


def paired_sheets(table: pd.DataFrame, model: str, data: str, passed_over: int) -> list[Sheet]:
    """One sheet per protocol, from the lines of `paired`'s table for one backbone and data source."""
    found = []
    exhibit = exhibits()["table1"]
    title = name_of(exhibit.title, "LoRA² against the others", exhibit.suite.model, model, data)
    for protocol, meaning in PROTOCOLS.items():
        part = table[table["protocol"] == protocol]
        if part.empty:
            continue
        lines = [_line(row) for row in part.to_dict("records")]
        notes = [_NOTE]
        if passed_over:
            why = f"Predictions of {passed_over} cell(s) were not read, for their size or their number"
            notes.append(f"{why}: no McNemar test there.")
        found.append(Sheet(f"{title}, paired; {meaning}", _HEADER, 3, lines, notes=notes))
    return found


_NOTE = (
    "Ours minus the other's in points, over the pairs of seeds that both have; the interval is a bootstrap of 95 %. "
    "Detectable: the smallest true difference that these pairs find in 80 % of cases. Seeds needed: for the claimed "
    "difference, the paper's own where it prints one, else 1 point. p-values are not corrected for their number; "
    "docs/STATISTICS.md says what each can tell."
)
_HEADER = (
    *("ours", "other", "task", "pairs", "difference", "interval", "sign-flip p", "McNemar p", "detectable", "claimed"),
    "seeds needed",
)


def _line(row: dict[Any, Any]) -> list[Text]:
    def number(name: str, digits: int) -> str:
        return "–" if pd.isna(row[name]) else f"{row[name]:.{digits}f}"

    difference = "–" if pd.isna(row["difference"]) else signed(row["difference"])
    low, high = number("low", 2), number("high", 2)
    interval = "–" if low == "–" else f"{low} to {high}".replace("-", "−")
    tests = [number("sign_flip_p", 4), number("mcnemar_p", 4)]
    design = [number("detectable", 2), number("claimed", 2).replace("-", "−"), number("seeds_needed", 0)]
    texts = [row["method"], row["other"], row["task"], str(row["n"]), difference, interval, *tests, *design]
    return [Text(text) for text in texts]
