"""Stored records -> one row per score, and means over seeds of cells that differ in nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

import pandas as pd

from lora2_bench.experiment.settings import canonical, leaves
from lora2_bench.records.record import Record
from lora2_bench.records.schema import CellSettings

# What names a group of cells that differ in the seed alone; `science` is everything but the seed.
GROUP = ["model", "data", "protocol", "method", "cut", "task", "science"]


def science_of(cell: CellSettings) -> str:
    """A cell's settings without its task and seed, as one text for equal science."""
    return _canonical_text(json.dumps({name: value for name, value in cell.items() if name not in ("seed", "task")}))


@cache  # the seeds of one row share theirs
def _canonical_text(text: str) -> str:
    return json.dumps(canonical(json.loads(text)), sort_keys=True)


def data_name(record: Record) -> str:
    """The data source, with what must never meet the rest in one table.

    `-sample` where real files do not hold GLUE's own rows; `-init_from` where a cell started from another's adapter.
    """
    name = str(record.cell["data"]["source"])
    if name != "mini" and not record.result["data"]["official"]:
        name += "-sample"
    return name + ("-init_from" if record.cell.get("init_from") else "")


def scores(records: Iterable[Record]) -> pd.DataFrame:
    """One row per finished cell and protocol: `paper` (best dev), `last`, `clean`. Scores are 0 to 100."""
    columns = ["id", *GROUP, "seed", "metric", "adapter", "head", "active", "score"]
    return pd.DataFrame([row for record in records for row in _score_rows(record)], columns=columns)


def _score_rows(record: Record) -> list[dict[str, Any]]:
    if not record.is_done:
        return []
    cell, result = record.cell, record.result
    common = {
        "id": record.id,
        "model": cell["model"]["name"],
        "data": data_name(record),
        "method": record.label,
        "cut": "; ".join(record.cut),
        "task": cell["task"],
        "science": science_of(cell),
        "seed": cell["seed"],
        "metric": result["main_metric"],
        **{name: result["parameters"][name] for name in ("adapter", "head", "active")},
    }
    return [
        {**common, "protocol": name, "score": 100 * scoring["score"]} for name, scoring in record.scorings().items()
    ]


def over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation (n - 1; none for one seed) and seeds of every group, with variants told apart.

    Where one method and task was run under several settings, `variant` says which differ, as `train.lr=0.001`.
    """
    if frame.empty:
        return pd.DataFrame(
            columns=[*GROUP, "variant", "mean", "sd", "n", "seeds", "metric", "adapter", "head", "active"]
        )
    grouped = frame.groupby(GROUP, sort=True)
    table = grouped.agg(
        mean=("score", "mean"),
        sd=("score", "std"),
        n=("score", "size"),
        seeds=("seed", lambda seeds: " ".join(str(seed) for seed in sorted(seeds))),
        metric=("metric", "first"),
        adapter=("adapter", "first"),
        head=("head", "first"),
        active=("active", "mean"),
    ).reset_index()
    names = [name for name in GROUP if name != "science"]
    table["variant"] = ""
    for _, group in table[table.duplicated(names, keep=False)].groupby(names):
        table.loc[group.index, "variant"] = _differences([_flat(text) for text in group["science"]])
    return table


@cache
def _flat(science: str) -> dict[str, str]:
    """Dotted name -> value as JSON."""
    return {name: json.dumps(value) for name, value in leaves(json.loads(science))}


def _differences(flat: list[dict[str, str]]) -> list[str]:
    """For each of several settings, those of its values that are not common to all."""
    names = sorted({name for one in flat for name in one})
    differing = [name for name in names if len({one.get(name) for one in flat}) > 1]
    return [", ".join(f"{name}={one[name]}" for name in differing if name in one) for one in flat]
