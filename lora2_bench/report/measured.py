"""Stored records -> one plain row per finished cell and protocol, with what figures need beside the score."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import pandas as pd

from lora2_bench.experiment.settings import canonical
from lora2_bench.records.record import Record
from lora2_bench.report.chart import XY


@dataclass(frozen=True, slots=True)
class Measured:
    """One finished cell under one protocol.

    Attributes:
        folder: `<backbone>-<data>`.
        method: the label, with its size.
        science: everything but seed and task, as in `aggregate.scores`; `without_lr` likewise without the lr.
        score: 0 to 100.
        curve: (epoch, score) of every evaluation.
        ranks: layer -> map -> ranks kept, None where the method has none; `full_rank` is what a map started with.
        seconds: per training step, None where not recorded; they tell nothing across two values of `machine`.
    """

    folder: str
    protocol: str
    method: str
    cut: str
    task: str
    science: str
    without_lr: str
    seed: int
    metric: str
    adapter: int
    score: float
    lr: float
    curve: tuple[XY, ...]
    ranks: dict[str, dict[str, int]] | None
    full_rank: float
    seconds: float | None
    machine: str


def measured(records: Sequence[Record], frame: pd.DataFrame) -> list[Measured]:
    """Every finished cell, once per protocol that it has a score for; `frame` is `aggregate.scores` of `records`."""
    by_id = {record.id: record for record in records}
    facts = {cell_id: _facts(record) for cell_id, record in by_id.items() if record.is_done}
    found = []
    for row in frame.to_dict("records"):
        fact = facts[row["id"]]
        lr = f'"lr": {json.dumps(canonical(fact["lr"]))}, '
        cuts = [cut for cut in by_id[row["id"]].cut if not cut.startswith("train.lr=")]
        found.append(
            Measured(
                folder=f"{row['model']}-{row['data']}",
                without_lr=json.dumps([cuts, row["science"].replace(lr, "")]),
                **{name: row[name] for name in ("protocol", "method", "cut", "task", "science", "seed", "metric")},
                adapter=row["adapter"],
                score=row["score"],
                **fact,
            )
        )
    return found


def grouped(found: Iterable[Measured], *names: str) -> dict[Any, list[Measured]]:
    """Runs by these attributes (a value for one name, a tuple for several), keys in order."""
    key = attrgetter(*names)
    groups: dict[Any, list[Measured]] = {}
    for run in found:
        groups.setdefault(key(run), []).append(run)
    return {name: groups[name] for name in sorted(groups)}


def main_settings(found: Iterable[Measured]) -> list[Measured]:
    """The runs of one setting per folder, protocol, method and task: uncut first, then the one with most seeds."""
    chosen = []
    for every in grouped(found, "folder", "protocol", "method", "task").values():
        settings = grouped(every, "cut", "science")
        best = min(settings, key=lambda key: (key[0] != "", -len(settings[key]), key))
        chosen += sorted(settings[best], key=attrgetter("seed"))
    return chosen


def _facts(record: Record) -> dict[str, Any]:
    result, run = record.result, record.run
    epochs_per_step = result["epochs"] / result["steps"] if result.get("steps") else 0.0
    evaluations = (result.get("evaluations") or []) if epochs_per_step else []
    ranks = result.get("ranks")
    hardware = run.get("hardware") or {}
    machine = hardware.get("gpu") or hardware.get("processor") or "not recorded"
    if not hardware.get("gpu") and (threads := hardware.get("threads")):
        machine += f", {threads} thread" + "s" * (threads != 1)
    return {
        "lr": record.cell["train"]["lr"],
        "curve": tuple((one["step"] * epochs_per_step, 100 * one["score"]) for one in evaluations),
        "ranks": ranks,
        "full_rank": result.get("ranks_initial", 0) / sum(len(layer) for layer in ranks.values()) if ranks else 0.0,
        "seconds": run.get("seconds_per_step"),
        "machine": machine,
    }
