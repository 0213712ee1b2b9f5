"""One method against every other on the same tasks and seeds, from scores and stored dev predictions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lora2_bench.report.predictions import Reader
from lora2_bench.report.scores import GROUP, counted, over_seeds
from lora2_bench.report.statistics.intervals import averages, mean_interval, spread
from lora2_bench.report.statistics.power import detectable_difference, seeds_needed
from lora2_bench.report.statistics.significance import (
    Key,
    mcnemar,
    non_inferiority_test,
    pair,
    sign_flip_test,
    t_test,
)
from lora2_bench.report.statistics.verdict import MEANINGFUL
from lora2_bench.tasks.spec import TASKS, in_order

EIGHT = tuple(task for task in TASKS if task != "wnli")  # those of the paper's average
AVERAGE = "average"
CHECKPOINT = {"paper": "best", "last": "last", "clean": "best"}  # whose predictions a protocol scores
COLUMNS = {
    "model": "str",
    "data": "str",
    "protocol": "str",
    "cut": "str",
    "method": "str",
    "variant": "str",
    "other": "str",
    "other_variant": "str",
    "task": "str",
    "tasks": "str",
    "n": "int64",
    "unpaired": "int64",
    "difference": "float64",
    "sd": "float64",
    "low": "float64",
    "high": "float64",
    "t_p": "float64",
    "sign_flip_p": "float64",
    "mcnemar_p": "float64",
    "mcnemar_seeds": "int64",
    "detectable": "float64",
    "claimed": "float64",
    "seeds_needed": "Int64",
    "margin": "float64",
    "no_worse_p": "float64",
    "looks": "str",
    "other_looks": "str",
}


@dataclass(frozen=True)
class _Run:
    score: float
    cell_id: str
    looks: int | None


_Runs = dict[Key, _Run]


def compare(
    frame: pd.DataFrame,
    method: str,
    *,
    correctness: Reader | None = None,
    claims: Mapping[tuple[str, str], float] | None = None,
    margin: float | None = None,
) -> pd.DataFrame:
    """Paired comparisons of one method with every other, per task and over the eight tasks: one row each.

    Runs meet only where backbone, rows, protocol and cut are the same; they are paired by task and seed. Recipes may
    differ: what is compared is a method with its recipe. Variants of one method are compared one by one.

    Args:
        frame: as `scores.scores` gives it.
        method: the label of our method, as `lora2 k=1`.
        correctness: reads a cell's predictions, as `stored_correctness(results)`; without it there is no McNemar test.
        claims: (other method, task or `average`) -> the difference in points that somebody claims. An average without
            one has the mean of its tasks' claims; where none is given it is 1 point.
        margin: points by which ours may be worse and still count as no worse; None for no test of it.

    Returns:
        A frame with `COLUMNS`: mean difference (ours minus the other's), its sd over pairs and t interval, p-values,
        the smallest difference that the t test finds with these n pairs, and the pairs that it needs for a claimed one.
        For `average`, `tasks` names the tasks of both methods, and a pair is a seed's average over them, of the seeds
        that all of them have. `looks` is how often each was scored on dev, `10-67` where runs differ, and empty where
        the score is no best one. What does not exist (no pair, no known spread, no predictions) is NaN.
    """
    claims = claims or {}
    rows: list[dict[str, Any]] = []
    labelled = frame.merge(over_seeds(frame)[[*GROUP, "variant"]], on=GROUP) if len(frame) else frame
    if len(labelled):
        shared = {science: _shared(science) for science in labelled["science"].unique()}
        labelled["shared"] = labelled["science"].map(shared)
        for names, group in labelled.groupby(["model", "data", "protocol", "cut", "shared"]):
            model, data, protocol, cut, _ = names
            common = {"model": model, "data": data, "protocol": protocol, "cut": cut}
            entries = _entries(group)
            for (ours, variant), our_runs in entries.items():
                for (other, other_variant), their_runs in entries.items():
                    if ours != method or other == method:
                        continue
                    who = {"method": ours, "variant": variant, "other": other, "other_variant": other_variant}
                    for row in _rows(our_runs, their_runs, CHECKPOINT[str(protocol)], correctness, margin):
                        claimed = _claim(claims, other, row)
                        sd = row["sd"]
                        needed = None if sd is None else seeds_needed(claimed, sd)
                        rows.append({**common, **who, **row, "claimed": claimed, "seeds_needed": needed})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _claim(claims: Mapping[tuple[str, str], float], other: str, row: Mapping[str, Any]) -> float:
    if (other, row["task"]) in claims or row["task"] != AVERAGE:
        return claims.get((other, row["task"]), MEANINGFUL)
    of_tasks = [claims.get((other, task)) for task in row["tasks"].split()]
    return fmean(one for one in of_tasks if one is not None) if None not in of_tasks else MEANINGFUL


def _shared(science: str) -> str:
    """What two runs must have in common: the backbone's weights, the rows and how the checkpoint is chosen."""
    values = json.loads(science)
    return json.dumps([values["model"], values["data"], values["protocol"]], sort_keys=True)


def _entries(group: pd.DataFrame) -> dict[tuple[str, str], _Runs]:
    """(method, variant) -> (task, seed) -> run."""
    entries: dict[tuple[str, str], _Runs] = {}
    names = ["method", "variant", "task", "seed", "score", "id", "looks"]
    for method, variant, task, seed, score, cell_id, looks in zip(*(group[name] for name in names), strict=True):
        run = _Run(float(score), cell_id, None if pd.isna(looks) else int(looks))
        entries.setdefault((method, variant), {})[task, int(seed)] = run
    return dict(sorted(entries.items()))


def _rows(
    ours: _Runs, theirs: _Runs, checkpoint: str, correctness: Reader | None, margin: float | None
) -> list[dict[str, Any]]:
    """One row per task that both have run, in GLUE's order, and one over those of the eight tasks that have pairs."""
    tasks = {task for task, _ in ours} & {task for task, _ in theirs}
    rows: list[dict[str, Any]] = []
    by_task: dict[str, dict[int, float]] = {}
    seen = 0
    for task in in_order(tasks):
        pairs = pair(*({key: run.score for key, run in runs.items() if key[0] == task} for runs in (ours, theirs)))
        right = _right(ours, theirs, pairs.keys, checkpoint, correctness) if correctness else []
        test = mcnemar(*(np.stack(side) for side in zip(*right, strict=True))) if right else None
        differences = {seed: float(one) for (_, seed), one in zip(pairs.keys, pairs.differences, strict=True)}
        rows.append(
            {
                **_summary(differences, margin),
                **_looks(ours, theirs, pairs.keys),
                "task": task,
                "tasks": task,
                "unpaired": pairs.unpaired,
                "mcnemar_p": None if test is None else test.p,
                "mcnemar_seeds": len(right),
            }
        )
        if task in EIGHT and differences:
            by_task[task] = differences
            seen += pairs.unpaired + 2 * len(differences)
    if len(by_task) > 1:
        whole = averages(by_task)
        rows.append(
            {
                **_summary(whole, margin),
                **_looks(ours, theirs, [(task, seed) for task in by_task for seed in whole]),
                "task": AVERAGE,
                "tasks": " ".join(by_task),
                "unpaired": seen - 2 * len(whole) * len(by_task),
                "mcnemar_seeds": 0,
            }
        )
    return rows


def _summary(differences: Mapping[int, float], margin: float | None) -> dict[str, Any]:
    """The numbers of one row, from the difference of each seed."""
    n = len(differences)
    if n == 0:
        return {"n": 0, "sd": None}
    values = [differences[seed] for seed in sorted(differences)]
    interval, sd = mean_interval(values), spread(values)
    return {
        "n": n,
        "difference": interval.estimate,
        "sd": sd,
        "low": interval.low,
        "high": interval.high,
        "t_p": t_test(values),
        "sign_flip_p": sign_flip_test(values),
        "detectable": None if sd is None else detectable_difference(sd, n),
        "margin": margin,
        "no_worse_p": None if margin is None else non_inferiority_test(values, margin),
    }


def _looks(ours: _Runs, theirs: _Runs, keys: Iterable[Key]) -> dict[str, str]:
    """How often both were scored on dev, in the runs that are compared."""
    keys = list(keys)
    return {
        name: counted(looks for key in keys if (looks := runs[key].looks) is not None)
        for name, runs in (("looks", ours), ("other_looks", theirs))
    }


def _right(
    ours: _Runs, theirs: _Runs, keys: tuple[Key, ...], checkpoint: str, correctness: Reader
) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Per seed that has predictions of both runs on the same labels: which examples each has right."""
    found = []
    for key in keys:
        sides = correctness(ours[key].cell_id), correctness(theirs[key].cell_id)
        if sides[0] is None or sides[1] is None or not np.array_equal(sides[0].labels, sides[1].labels):
            continue
        if checkpoint in sides[0].right and checkpoint in sides[1].right:
            found.append((sides[0].right[checkpoint], sides[1].right[checkpoint]))
    return found
