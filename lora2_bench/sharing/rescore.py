"""The scores of a record computed again from the predictions beside it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from lora2_bench import __version__
from lora2_bench.records.digest import file_digest
from lora2_bench.records.lock import locked
from lora2_bench.records.predictions import SplitPredictions, read_predictions
from lora2_bench.records.record import Record
from lora2_bench.records.schema import Metrics, Result, RunFacts, Scoring
from lora2_bench.records.store import PREDICTIONS, Store
from lora2_bench.sharing.scoring import metrics_of
from lora2_bench.tasks.metrics import main_name, main_score
from lora2_bench.tasks.spec import TaskSpec

METRIC_TOLERANCE = 1e-6
"""Above what another order of the same float64 sums does, below one row of any dev set."""
LOSS_TOLERANCE = 1e-4  # relative: a run's mean over float32

_PREDICTED = ("best", "last")


def rescored(record: Record, folder: Path) -> Record:
    """The record of a finished cell with the metrics and deciding numbers that its stored predictions give.

    Only `best` and `last` have predictions, so other evaluations keep theirs, and the choice of the best one stands. A
    loss that is equal but for rounding stays. Raises FileNotFoundError without predictions, and ValueError with the
    reason where they are not this cell's.
    """
    spec = record.spec
    splits = read_predictions(folder / PREDICTIONS)
    if (record.files or {}).get(PREDICTIONS) not in (None, file_digest(folder / PREDICTIONS)):
        raise ValueError(f"{PREDICTIONS} is not the file that the record was written with")
    result: Result = {**record.result, "main_metric": main_name(spec)}
    for when in _PREDICTED:
        scoring = cast(Scoring | None, record.result.get(when))
        if scoring is not None:
            result[when] = _scored(spec, splits, when, scoring)  # type: ignore[literal-required]
    if record.cell["protocol"]["name"] != "clean":  # its evaluations are of the rows that were predicted
        again = {one["step"]: one for when in _PREDICTED if (one := cast(Scoring | None, result.get(when))) is not None}
        result["evaluations"] = [
            {**one, "score": again[one["step"]]["score"], "metrics": again[one["step"]]["metrics"]}
            if one["step"] in again
            else one
            for one in record.result["evaluations"]
        ]
    return replace(record, result=result)


def _scored(spec: TaskSpec, splits: Mapping[str, SplitPredictions], when: str, scoring: Scoring) -> Scoring:
    if set(splits) != set(scoring["metrics"]):
        raise ValueError(f"predictions of {', '.join(splits) or 'no split'} are not of {', '.join(scoring['metrics'])}")
    metrics: dict[str, dict[str, float]] = {}
    for name, before in scoring["metrics"].items():
        if when not in splits[name].logits:
            raise ValueError(f"{name} has no predictions of the {when} checkpoint")
        now = metrics_of(spec, splits[name].labels, splits[name].logits[when])
        metrics[name] = {key: _kept(key, before, value) for key, value in now.items()}
    score = main_score(spec, metrics)
    score = scoring["score"] if abs(score - scoring["score"]) <= METRIC_TOLERANCE else score
    return {**scoring, "score": score, "metrics": cast(dict[str, Metrics], metrics)}


def _kept(name: str, before: Mapping[str, Any], now: float) -> float:
    """The stored value where it is this one but for rounding, so that nothing is rewritten for nothing."""
    old = before.get(name)
    tolerance = LOSS_TOLERANCE * max(1.0, abs(now)) if name == "loss" else METRIC_TOLERANCE
    return old if isinstance(old, int | float) and abs(old - now) <= tolerance else now


def changes(before: Record, after: Record) -> list[str]:
    """`best.dev.accuracy 0.5 -> 0.6` for every stored number that the predictions do not give."""
    lines = []
    if before.result["main_metric"] != after.result["main_metric"]:
        lines.append(f"deciding metric {before.result['main_metric']} -> {after.result['main_metric']}")
    for when in _PREDICTED:
        old, new = before.result.get(when), after.result.get(when)
        if old is None or new is None:
            continue
        olds, news = (_numbers(when, cast(Scoring, one)) for one in (old, new))
        lines += [
            f"{name} {olds.get(name, 'none')} -> {news.get(name, 'none')}"
            for name in sorted({*olds, *news})
            if olds.get(name) != news.get(name)
        ]
    return lines


def _numbers(when: str, scoring: Scoring) -> dict[str, Any]:
    found: dict[str, Any] = {f"{when}.score": scoring["score"]}
    for split, row in scoring["metrics"].items():
        found |= {f"{when}.{split}.{name}": value for name, value in row.items()}
    return found


def write_rescored(store: Store, before: Record, after: Record) -> None:
    """Replace a record by its rescored one; everything beside it stays. Raises OSError and UserError as `Store.write`.

    Raises LockHeld while the cell is trained. `run.rescored` names the version that scored.
    """
    run = cast(RunFacts, {**before.run, "rescored": __version__})

    def copy_rest(folder: Path) -> None:
        shutil.copytree(
            store.folder(before.id), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("record.json", ".*")
        )

    with locked(store.running(before.id), f"cell {before.id} is being trained"):
        store.write(replace(after, run=run), copy_rest)
