"""Two methods of a notebook's frame, compared as the tables compare them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lora2_bench.errors import UserError
from lora2_bench.experiment.suites import rows
from lora2_bench.files.arguments import nearest
from lora2_bench.records.store import PREDICTIONS, read_record
from lora2_bench.report.comparisons import compare
from lora2_bench.report.frame import FIRST, LAST
from lora2_bench.report.predictions import Correctness, read_correctness


def compared(frame: pd.DataFrame, ours: str, other: str, margin: float | None) -> pd.DataFrame:
    """As `comparisons.compare`, for two names in the rows of a `frame.run_frame`. Raises UserError."""
    if missing := [name for name in (*FIRST, *LAST) if name not in frame.columns]:
        raise UserError(f"the frame has no column {missing[0]}: give one of load(...), or some of its rows")
    if margin is not None and not margin >= 0:
        raise UserError(f"margin={margin} is not possible: give points of at least 0, or None")
    parts = [_of(frame, name).assign(method=name) for name in (ours, other)]
    if both := set(parts[0]["id"]) & set(parts[1]["id"]):
        raise UserError(f"{ours} and {other} are both cell {min(both)}: compare two that share no run")
    table = _long(pd.concat(parts, ignore_index=True))
    paths = dict(zip(table["id"], table["path"], strict=True))

    def correctness(cell_id: str) -> Correctness | None:
        path = Path(paths[cell_id])
        try:
            digests = read_record(path).files or {}
        except (OSError, ValueError):  # one that only a study's file has, or that has gone since the frame was read
            return None
        return read_correctness(path.with_name(PREDICTIONS), digests.get(PREDICTIONS))

    return compare(table, ours, correctness=correctness, margin=margin)


def _of(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of a row of the paper's tables, a method with its size, or a method."""
    in_rows = frame["rows"].str.split().map(lambda names: name in names)
    for chosen in (in_rows, frame["label"] == name, frame["method"] == name):
        if len(frame) and chosen.any():
            return frame[chosen.astype(bool)]
    if name in rows():
        there = sorted({one for names in frame["rows"] for one in names.split()}) or ["nothing of them"]
        raise UserError(f"{name}: the frame has no run of this row: of the paper's rows it has {', '.join(there)}")
    known = sorted({*frame["label"], *frame["method"], *rows()})
    raise UserError(f"{name} is no row, label or method here: {nearest(name, known)}")


def _long(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a run and protocol, with the columns of `scores.scores` and `path`."""
    stale = ("stale: " + frame["stale"]).where(frame["stale"] != "", "")
    marks = [("; ".join(filter(None, pair))) for pair in zip(frame["cut"], stale, strict=True)]
    table = frame.assign(cut=marks, science=frame["settings"], adapter=frame["parameters"], early=False)
    clean = table["protocol"] == "clean"
    best = table.assign(score=table["best"], protocol=clean.map({True: "clean", False: "paper"}))
    last = table.assign(score=table["last"], protocol="last", looks=float("nan"))
    return pd.concat([best, last], ignore_index=True).dropna(subset=["score"]).astype({"looks": "Int64"})
