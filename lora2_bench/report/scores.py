"""Runs -> the frame of scores, one row each, and means over seeds of cells that differ in nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

import pandas as pd

from lora2_bench.experiment.settings import flatten
from lora2_bench.report.runs import Run
from lora2_bench.report.selection import Selection

# What names a group of cells that differ in the seed alone; `science` is everything but the seed.
GROUP = ["model", "data", "protocol", "method", "cut", "task", "science"]


_OF_BEST = ["looks", "early", "older"]


def scores(selection: Selection) -> pd.DataFrame:
    """One row per finished run and protocol: `paper` (best dev), `last`, `clean`. Scores are 0 to 100.

    `cut` says why a run does not count, as `Selection.marks`: such runs stand apart from those that do. `active` is
    counted at the step whose score it is, `early` is whether that step came before the rank budget was met, and `looks`
    is how often dev was scored for a best one, None for any other; `older` is as of the run.
    """
    columns = ["id", *GROUP, "seed", "metric", "adapter", "head", "active", "looks", "early", "older", "score"]
    return pd.DataFrame([row for run in selection.finished for row in _score_rows(run, selection)], columns=columns)


def _score_rows(run: Run, selection: Selection) -> list[dict[str, Any]]:
    common = {
        "id": run.id,
        "model": run.model,
        "data": run.data,
        "method": run.label,
        "cut": selection.marks(run),
        "task": run.task,
        "science": run.science,
        "seed": run.seed,
        "metric": run.metric,
        "adapter": run.parameters["adapter"],
        "head": run.parameters["head"],
    }
    return [
        {
            **common,
            "protocol": protocol,
            "active": run.active(protocol),
            "looks": run.looks(protocol),
            "early": run.is_early(protocol),
            "older": run.older,
            "score": score,
        }
        for protocol, score in run.scores.items()
    ]


def counted(counts: Iterable[int]) -> str:
    """One number, or `2-5` where they differ; nothing without any."""
    found = sorted(set(counts))
    return "" if not found else str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"


def over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation (n - 1; none for one seed) and seeds of every group, with variants told apart.

    Where one method and task was run under several settings, `variant` says which differ, as `train.lr=0.001`.
    """
    if frame.empty:
        return pd.DataFrame(
            columns=[*GROUP, "variant", *("mean", "sd", "n", "seeds", "metric", "adapter", "head", "active"), *_OF_BEST]
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
        fewest=("looks", "min"),
        most=("looks", "max"),
        early=("early", "max"),
        older=("older", "max"),
    ).reset_index()
    ends = zip(table.pop("fewest"), table.pop("most"), strict=True)
    table["looks"] = ["" if pd.isna(low) else counted({int(low), int(high)}) for low, high in ends]
    names = [name for name in GROUP if name != "science"]
    table["variant"] = ""
    for _, group in table[table.duplicated(names, keep=False)].groupby(names):
        table.loc[group.index, "variant"] = _differences([_flat(text) for text in group["science"]])
    return table


@cache
def _flat(science: str) -> dict[str, str]:
    """Dotted name -> value as JSON."""
    return {name: json.dumps(value) for name, value in flatten(json.loads(science))}


def _differences(flat: list[dict[str, str]]) -> list[str]:
    """For each of several settings, those of its values that are not common to all."""
    names = sorted({name for one in flat for name in one})
    differing = [name for name in names if len({one.get(name) for one in flat}) > 1]
    return [", ".join(f"{name}={one[name]}" for name in differing if name in one) for one in flat]
