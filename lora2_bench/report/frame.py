"""Records and stored predictions as frames of pandas, for notebooks: docs/API.md lists the columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from lora2_bench.errors import UserError
from lora2_bench.records.predictions import read_predictions
from lora2_bench.records.store import PREDICTIONS, Store, record_paths
from lora2_bench.report.records import load_records
from lora2_bench.report.runs import Run
from lora2_bench.report.selection import runs_by_row, select

# Columns before and after those of the metrics, with their types.
FIRST = {
    "id": "str",
    "model": "str",
    "data": "str",
    "task": "str",
    "method": "str",
    "label": "str",
    "rows": "str",
    "size": "Int64",
    "seed": "int64",
    "protocol": "str",
    "status": "str",
    "metric": "str",
    "best": "float64",
    "last": "float64",
}
LAST = {
    "parameters": "int64",
    "head": "int64",
    "active": "int64",
    "seconds": "float64",
    "seconds_per_step": "float64",
    "memory": "Int64",
    "looks": "Int64",
    "cut": "str",
    "stale": "str",
    "cause": "str",
    "finished": "str",
    "settings": "str",
    "path": "str",
}


def run_frame(results: Path) -> pd.DataFrame:
    """Every readable record but trials of a study, one row a run; scores and metrics in points.

    A metric's column is `<checkpoint>_<split>_<metric>`; `loss` is as it is. Raises UserError where there is no folder.
    """
    if not results.is_dir():
        raise UserError(f"results={results} is no folder: run a cell, or name its results")
    selection = select(load_records(results), whole=False)
    of_row: dict[str, list[str]] = {}
    for name, runs in runs_by_row(selection.runs).items():
        for run in runs:
            of_row.setdefault(run.id, []).append(name)
    paths = {path.parent.name: str(path) for path in record_paths(results)}  # a study's file may have more records
    rows: list[dict[str, Any]] = []
    measured: set[str] = set()
    for run in selection.runs:
        metrics = _metrics(run)
        measured |= metrics.keys()
        facts = _facts(run, " ".join(of_row.get(run.id, ())), selection.stale.get(run.id, ""))
        rows.append({**facts, **metrics, "path": paths.get(run.id, "")})
    types = {**FIRST, **dict.fromkeys(sorted(measured), "float64"), **LAST}
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def _facts(run: Run, rows: str, stale: str) -> dict[str, Any]:
    record, best = run.record, next((name for name in ("paper", "clean") if name in run.scores), None)
    return {
        "id": run.id,
        "model": run.model,
        "data": run.data,
        "task": run.task,
        "method": run.method_name,
        "label": run.label,
        "rows": rows,
        "size": record.result["size"]["value"],
        "seed": run.seed,
        "protocol": run.protocol,
        "status": record.status,
        "metric": run.metric,
        "best": None if best is None else run.scores[best],
        "last": run.scores.get("last"),
        "parameters": run.parameters["adapter"],
        "head": run.parameters["head"],
        "active": run.parameters["active"],
        "seconds": record.run["seconds"],
        "seconds_per_step": run.seconds_per_step,
        "memory": run.memory,
        "looks": None if best is None else run.looks(best),
        "cut": "; ".join(run.obstacles),
        "stale": stale,
        "cause": run.cause,
        "finished": run.finished,
        "settings": run.science,
    }


def _metrics(run: Run) -> dict[str, float]:
    found = {}
    for protocol, scoring in run.record.scorings().items():
        checkpoint = "last" if protocol == "last" else "best"
        for split, metrics in scoring["metrics"].items():
            for name, value in metrics.items():
                if isinstance(value, int | float):
                    found[f"{checkpoint}_{split}_{name}"] = value if name == "loss" else 100 * value
    return found


def prediction_frame(results: Path, cell_id: str) -> pd.DataFrame:
    """A cell's stored dev predictions, one row an example, in the order of the files. Raises UserError."""
    store = Store(results)
    if store.read(cell_id) is None:
        raise UserError(f"{cell_id} is no cell in {store.cells}: give an id of load(...), or another results")
    path = store.folder(cell_id) / PREDICTIONS
    try:
        splits = read_predictions(path)
    except FileNotFoundError:
        raise UserError(f"{path} is not there: a failed cell predicts nothing; train another with rerun=true") from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}): train the cell anew with rerun=true") from None
    parts = []
    for split, part in splits.items():
        columns: dict[str, Any] = {"split": split, "row": range(len(part.labels)), "label": part.labels}
        for checkpoint, logits in part.logits.items():
            columns[checkpoint] = logits[:, 0] if logits.shape[1] == 1 else logits.argmax(axis=1)
        for checkpoint, logits in part.logits.items():
            for number in range(logits.shape[1] if logits.shape[1] > 1 else 0):
                columns[f"{checkpoint}_logit_{number}"] = logits[:, number]
        parts.append(pd.DataFrame(columns))
    if not parts:
        raise UserError(f"{path} holds no split: the cell was not scored on dev")
    return pd.concat(parts, ignore_index=True)
