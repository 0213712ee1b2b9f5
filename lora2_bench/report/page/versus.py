"""Method A against method B, as data for the page: scores by task and seed, p-values, and which examples are right."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lora2_bench.report.comparisons import CHECKPOINT
from lora2_bench.report.predictions import Reader
from lora2_bench.report.standing import Board, task_name
from lora2_bench.report.statistics.intervals import LEVEL, t_quantile
from lora2_bench.report.statistics.ties import paired_p, pairs


def versus(board: Board, read: Reader) -> dict[str, Any]:
    """What two pickers need of one board.

    Returns:
        `place`, `protocol`, `names` (methods, best first), `seeds`, `averaged` (positions in `tasks`), `holm` (p of the
        averages, one per pair of the ranked methods), `t` (n -> Student's quantile) and `tasks`: each with its `name`,
        `scores` (methods × seeds), `p` (one per pair) and, where predictions were read, `rows` and `right`: bits of
        the dev rows that are right, method -> seed -> base64.
    """
    seeds = sorted({seed for one in board.entrants for of in one.scores.values() for seed in of})
    ranked = len(board.ranked)
    return {
        "place": board.folder,
        "protocol": board.protocol,
        "names": [one.name for one in board.entrants],
        "seeds": seeds,
        "ranked": ranked,
        "averaged": [board.tasks.index(task) for task in board.averaged],
        "holm": [_digits(board.p.get(pair)) for pair in pairs(ranked)],
        "t": {n: round(t_quantile(n - 1, (1 + LEVEL) / 2), 4) for n in range(2, len(seeds) + 1)},
        "tasks": [_task(board, task, seeds, read) for task in board.tasks],
    }


def _task(board: Board, task: str, seeds: Sequence[int], read: Reader) -> dict[str, Any]:
    table = np.array(
        [[one.scores.get(task, {}).get(seed, np.nan) for seed in seeds] for one in board.entrants], dtype=np.float64
    )
    p = paired_p(table)
    scores = [[None if np.isnan(score) else round(float(score), 3) for score in row] for row in table]
    found = {"name": task_name(task), "scores": scores, "p": [_digits(p[pair]) for pair in pairs(len(table))]}
    return {**found, **_examples(board, task, read)}


def _examples(board: Board, task: str, read: Reader) -> dict[str, Any]:
    """Bits of the rows that each run has right; runs with other labels than the first are left out."""
    if board.spec(task).is_regression:
        return {}
    checkpoint = CHECKPOINT[board.protocol]
    labels = None
    right: dict[int, Mapping[int, str]] = {}
    for at, one in enumerate(board.entrants):
        bits: dict[int, str] = {}
        for seed, run in one.runs.get(task, {}).items():
            stored = read(run.id)
            if stored is None or checkpoint not in stored.right:
                continue
            labels = stored.labels if labels is None else labels
            if np.array_equal(labels, stored.labels):
                bits[seed] = base64.b64encode(np.packbits(stored.right[checkpoint]).tobytes()).decode()
        if bits:
            right[at] = bits
    return {} if labels is None else {"rows": int(labels.size), "right": right}


def _digits(p: float | None) -> float | None:
    return None if p is None or np.isnan(p) else float(f"{p:.3g}")
