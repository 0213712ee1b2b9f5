"""One method against every other on the same tasks and seeds, from scores and stored dev predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lora2_bench.report.predictions import Reader
from lora2_bench.report.scores import GROUP, over_seeds
from lora2_bench.report.statistics.intervals import RESAMPLES, Floats, bootstrap_interval
from lora2_bench.report.statistics.power import detectable_difference, seeds_needed
from lora2_bench.report.statistics.significance import Key, mcnemar, pair, sign_flip_test
from lora2_bench.report.statistics.verdict import MEANINGFUL
from lora2_bench.tasks.spec import TASKS

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
    "sign_flip_p": "float64",
    "mcnemar_p": "float64",
    "mcnemar_seeds": "int64",
    "detectable": "float64",
    "claimed": "float64",
    "seeds_needed": "Int64",
}


@dataclass(frozen=True)
class _Run:
    score: float
    cell_id: str


_Runs = dict[Key, _Run]


def compare(
    frame: pd.DataFrame,
    method: str,
    *,
    correctness: Reader | None = None,
    claims: Mapping[tuple[str, str], float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Paired comparisons of one method with every other, per task and over the eight tasks: one row each.

    Runs meet only where backbone, rows, protocol and cut are the same; they are paired by task and seed. Recipes may
    differ: what is compared is a method with its recipe. Variants of one method are compared one by one.

    Args:
        frame: as `scores.scores` gives it.
        method: the label of our method, as `lora2 k=1`.
        correctness: reads a cell's predictions, as `stored_correctness(results)`; without it there is no McNemar test.
        claims: (other method, task or `average`) -> the difference in points that somebody claims; 1 point where none
            is given.
        resamples: bootstrap samples per interval.
        seed: of the random draws.

    Returns:
        A frame with `COLUMNS`: mean difference (ours minus the other's), its sd over pairs and bootstrap interval,
        p-values, the smallest difference that these n pairs can detect, and the seeds that a claimed one needs. For
        `average`, `tasks` names the tasks of both methods, n is the smallest of their numbers of pairs, and sd is that
        of one seed's average. What does not exist (no pair, one seed, no predictions) is NaN.
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
                    for row in _rows(our_runs, their_runs, CHECKPOINT[str(protocol)], correctness, resamples, seed):
                        claimed = claims.get((other, row["task"]), MEANINGFUL)
                        sd = row["sd"]
                        needed = None if sd is None else seeds_needed(claimed, sd)
                        rows.append({**common, **who, **row, "claimed": claimed, "seeds_needed": needed})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _shared(science: str) -> str:
    """What two runs must have in common: the backbone's weights, the rows and how the checkpoint is chosen."""
    values = json.loads(science)
    return json.dumps([values["model"], values["data"], values["protocol"]], sort_keys=True)


def _entries(group: pd.DataFrame) -> dict[tuple[str, str], _Runs]:
    """(method, variant) -> (task, seed) -> run."""
    entries: dict[tuple[str, str], _Runs] = {}
    names = ["method", "variant", "task", "seed", "score", "id"]
    for method, variant, task, seed, score, cell_id in zip(*(group[name] for name in names), strict=True):
        entries.setdefault((method, variant), {})[task, int(seed)] = _Run(float(score), cell_id)
    return dict(sorted(entries.items()))


def _rows(
    ours: _Runs, theirs: _Runs, checkpoint: str, correctness: Reader | None, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """One row per task that both have run, in GLUE's order, and one over those of the eight tasks that have pairs."""
    tasks = {task for task, _ in ours} & {task for task, _ in theirs}
    rows: list[dict[str, Any]] = []
    paired: dict[str, Floats] = {}
    unpaired = 0
    for task in sorted(tasks, key=list(TASKS).index):
        pairs = pair(*({key: run.score for key, run in runs.items() if key[0] == task} for runs in (ours, theirs)))
        right = _right(ours, theirs, pairs.keys, checkpoint, correctness) if correctness else []
        test = mcnemar(*(np.stack(side) for side in zip(*right, strict=True))) if right else None
        rows.append(
            {
                **_summary({task: pairs.differences}, resamples, seed),
                "task": task,
                "unpaired": pairs.unpaired,
                "mcnemar_p": None if test is None else test.p,
                "mcnemar_seeds": len(right),
            }
        )
        if task in EIGHT and pairs.keys:
            paired[task] = pairs.differences
            unpaired += pairs.unpaired
    if len(paired) > 1:
        rows.append({**_summary(paired, resamples, seed), "task": AVERAGE, "unpaired": unpaired, "mcnemar_seeds": 0})
    return rows


def _summary(differences: dict[str, Floats], resamples: int, seed: int) -> dict[str, Any]:
    """The numbers of one row; every task weighs alike."""
    n = min(len(values) for values in differences.values())
    common = {"tasks": " ".join(differences), "n": n}
    if n == 0:
        return {**common, "sd": None}
    interval = bootstrap_interval(differences, resamples=resamples, seed=seed)
    weighted = np.concatenate([values / values.size for values in differences.values()])
    sd = None
    if n > 1:
        variances = [np.var(values, ddof=1) for values in differences.values()]
        sd = float(np.sqrt(np.sum(variances))) / len(variances)
    return {
        **common,
        "difference": interval.estimate,
        "sd": sd,
        "low": interval.low,
        "high": interval.high,
        "sign_flip_p": sign_flip_test(weighted, seed=seed),
        "detectable": None if sd is None else detectable_difference(sd, n),
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
