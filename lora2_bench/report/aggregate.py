"""Stored records -> one row per score, and means over seeds of cells that differ in nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from lora2_bench.cell import canonical
from lora2_bench.record import Record
from lora2_bench.store import read_record

# What names a group of cells that differ in the seed alone; `science` is everything but the seed.
GROUP = ["model", "data", "protocol", "method", "cut", "task", "science"]


def load_records(results: Path) -> list[Record]:
    """Every readable record below `results/cells`, in the order of ids; an unreadable one is named and skipped."""
    records: list[Record] = []
    for path in sorted(results.glob("cells/[!.]*/record.json")):  # a dot: left over by a writer that was killed
        try:
            records.append(read_record(path))
        except ValueError as error:
            print(f"warning: {path} is skipped: {error}", file=sys.stderr)
    return records


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
    rows: list[dict[str, Any]] = []
    for record in records:
        if not record.is_done:
            continue
        cell, result = record.cell, record.result
        science = {name: value for name, value in canonical(cell).items() if name not in ("seed", "task")}
        common = {
            "id": record.id,
            "model": cell["model"]["name"],
            "data": data_name(record),
            "method": record.label,
            "cut": "; ".join(record.cut),
            "task": cell["task"],
            "science": json.dumps(science, sort_keys=True),
            "seed": cell["seed"],
            "metric": result["main_metric"],
            **{name: result["parameters"][name] for name in ("adapter", "head", "active")},
        }
        if cell["protocol"]["name"] == "clean":
            rows.append({**common, "protocol": "clean", "score": 100 * result["best"]["score"]})
        else:
            rows.append({**common, "protocol": "paper", "score": 100 * result["best"]["score"]})
            rows.append({**common, "protocol": "last", "score": 100 * result["last"]["score"]})
    columns = ["id", *GROUP, "seed", "metric", "adapter", "head", "active", "score"]
    return pd.DataFrame(rows, columns=columns)


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
    for _, group in table.groupby(names):
        if len(group) > 1:
            table.loc[group.index, "variant"] = _differences([json.loads(text) for text in group["science"]])
    return table


def _differences(sciences: list[dict[str, Any]]) -> list[str]:
    """For each of several settings, those of its values that are not common to all."""
    flat = [dict(_flatten(science)) for science in sciences]
    names = sorted({name for one in flat for name in one})
    differing = [name for name in names if len({one.get(name) for one in flat}) > 1]
    return [", ".join(f"{name}={one[name]}" for name in differing if name in one) for one in flat]


def _flatten(value: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _flatten(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(item)
