"""LoRA² against each baseline of its group in Table 1, and against LoRA r=8, paired by seed: the frame of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product

import pandas as pd

from lora2_bench.paper.tables import Row
from lora2_bench.report.comparisons import AVERAGE, COLUMNS, EIGHT, compare
from lora2_bench.report.predictions import Reader
from lora2_bench.report.statistics.power import seeds_needed
from lora2_bench.report.statistics.significance import holm
from lora2_bench.report.tables.grid import Grid
from lora2_bench.report.tables.layouts import Line, exhibits

PRIMARY = ("last", "lora2_k1", "lora_r1")
"""Protocol and rows of the one comparison named in advance, on average over tasks. At the end of training no score is
chosen on dev, so it favours no method that looks at dev more often."""

NO_WORSE = ("lora2_k1", "lora_r8")
"""Rows of the non-inferiority test, on average over tasks: LoRA² k=1 against eight times its rank."""

MARGIN = 0.5
"""Points by which it may be worse: under half of what LoRA r=8 is printed above LoRA r=1 (1.15), so
that what passes keeps more than half of that gain."""

IN_FAMILY, IS_PRIMARY, IS_NO_WORSE = "Holm", "primary", "no worse"
PAIRED_COLUMNS = {
    **COLUMNS,
    "role": "str",
    "holm_p": "float64",
    "family": "int64",
    "claimed_printed": "float64",
    "seeds_needed_printed": "Int64",
}


def paired(frame: pd.DataFrame, grids: Iterable[Grid], correctness: Reader | None) -> pd.DataFrame:
    """Comparisons of LoRA² with every other method of its group, full fine-tuning among them; only runs that count.

    Args:
        frame: all scores, as `scores.scores`.
        grids: Table 1's, of any backbones, data sources and protocols.
        correctness: reads predictions; None for no McNemar test.

    Returns:
        As `comparisons.compare` with `PAIRED_COLUMNS`. Where a grid is the paper's own table, `claimed` is the
        difference between the printed cells, for an average those of its tasks, and `claimed_printed` that between
        printed averages where one of them does not follow from its cells. `role` is primary, Holm (adjusted over the
        `family` of comparisons of one table) or no worse (the test against `margin`).
    """
    lines = exhibits()["table1"].lines
    of_row = {line.spec.name: line for line in lines}
    counted: dict[tuple[bool, str], set[str]] = {}
    for grid in grids:
        for row in grid.rows:
            ids = {run.id for slot in row.slots.values() for run in slot.runs.values()}
            counted.setdefault((grid.is_papers, row.line.spec.name), set()).update(ids)

    def of(papers: bool, group: Iterable[Line]) -> pd.DataFrame:
        return frame[frame["id"].isin(set().union(*(counted.get((papers, line.spec.name), ()) for line in group)))]

    parts = []
    for papers, ours in product((True, False), (line for line in lines if line.spec.method == "lora2")):
        group = [line for line in lines if line.group in (ours.group, "full")]
        claims, by_averages = _claims(ours, group) if papers else ({}, {})
        found = compare(of(papers, group), ours.spec.label, correctness=correctness, claims=claims)
        parts.append(found.assign(role=IN_FAMILY, claimed_printed=_printed(found, by_averages)))
    one, other = (of_row[name] for name in NO_WORSE)
    for papers in (True, False):
        claims = {(other.spec.label, AVERAGE): MARGIN}
        found = compare(of(papers, [one, other]), one.spec.label, claims=claims, margin=MARGIN)
        parts.append(found[found["task"] == AVERAGE].assign(role=IS_NO_WORSE, claimed_printed=float("nan")))
    parts = [part for part in parts if len(part)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(PAIRED_COLUMNS))
    return _adjusted(table)


def _claims(ours: Line, others: Iterable[Line]) -> tuple[dict[tuple[str, str], float], dict[str, float]]:
    """(other's label, task) -> the difference of printed cells; other's label -> that of printed averages.

    The second only where a printed average does not follow from its cells.
    """
    found: dict[tuple[str, str], float] = {}
    by_averages: dict[str, float] = {}
    for other in others:
        mine, theirs, label = ours.printed, other.printed, other.spec.label
        if other is ours or mine is None or theirs is None:
            continue
        if ours.average_by_rule is not None or other.average_by_rule is not None:
            by_averages[label] = float(mine.average.value - theirs.average.value)
        for task in mine.tasks:
            found[label, task] = _difference(mine, theirs, task)
    return found, by_averages


def _difference(mine: Row, theirs: Row, task: str) -> float:
    return float(mine.score(task).value - theirs.score(task).value)


def _printed(table: pd.DataFrame, by_averages: Mapping[str, float]) -> pd.Series[float]:
    return table["other"].map(by_averages).where(table["tasks"] == " ".join(EIGHT)).astype("float64")


def _adjusted(table: pd.DataFrame) -> pd.DataFrame:
    """With the primary comparison named, and Holm's p over the others of each table: averages, and single tasks."""
    protocol, ours, other = PRIMARY
    labels = [
        line.spec.label for name in (ours, other) for line in exhibits()["table1"].lines if line.spec.name == name
    ]
    average = table["task"] == AVERAGE
    same = (table["method"] == labels[0]) & (table["other"] == labels[1]) & (table["protocol"] == protocol)
    table.loc[same & average & (table["role"] == IN_FAMILY), "role"] = IS_PRIMARY
    table["holm_p"], table["family"] = float("nan"), 0
    members = table[table["role"] == IN_FAMILY]
    for _, family in members.groupby(["model", "data", "protocol", average[members.index]]):
        tested = family[family["t_p"].notna()]
        table.loc[tested.index, "holm_p"] = holm(tested["t_p"].tolist())
        table.loc[family.index, "family"] = len(tested)
    both = zip(table["claimed_printed"], table["sd"], strict=True)
    table["seeds_needed_printed"] = [
        None if pd.isna(claim) or pd.isna(sd) else seeds_needed(claim, sd) for claim, sd in both
    ]
    return table.reindex(columns=list(PAIRED_COLUMNS)).astype(PAIRED_COLUMNS)
