"""Records with everything that figures and the report show, made without training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from lora2_bench.records.record import Record
from tests.made_records import made_evaluation, make_cell, make_failed, make_record

MAPS = ("q", "k", "v", "o", "f1", "f2")
HARDWARE = {"machine": "x86_64", "processor": "Made CPU", "cores": 2, "threads": 1, "gpu": None}
VERSIONS = {"lora2_bench": "0.1.0", "torch": "2.13.0+cpu"}


def measured(
    task: str, method: str, seed: int, final: float, *, cut: tuple[str, ...] = (), layers: int = 2, **cell: Any
) -> Record:
    """A finished cell with three evaluations that end at `final`, ranks for lora2, times, versions and a command."""
    steps = [10, 20, 30]
    scores = [round(final - 0.2, 4), round(final + 0.01 * (seed + 1), 4), final]
    evaluations = [made_evaluation(task, at, at / 10, score) for at, score in zip(steps, scores, strict=True)]
    facts: dict[str, Any] = {"evaluations": evaluations, "steps": 30, "epochs": 3.0}
    if method == "lora2":
        ranks = {str(at): {name: (seed + at + len(name)) % 9 for name in MAPS} for at in range(layers)}
        facts |= {"ranks": ranks, "ranks_kept": 20, "ranks_initial": 8 * layers * len(MAPS)}
    record = make_record(make_cell(task, method, seed=seed, **cell), max(scores), final, cut=cut, **facts)
    run = {
        **record.run,
        "seconds_per_step": {"full": 2.0, "lora": 1.0, "lora2": 1.1}[method],
        "hardware": HARDWARE,
        "versions": VERSIONS,
        "code": {"sha": "ab" * 20, "dirty": False},
        "command": [f"task={task}", f"method={method}", f"seed={seed}", "results=.../elsewhere"],
    }
    return dataclasses.replace(record, run=run)


def made_results() -> Sequence[Record]:
    """Three methods on two tasks and two seeds, a sweep of lr, a clean cell, a quick look, and a failed cell."""
    found = [
        measured(task, method, seed, final + 0.02 * seed)
        for task, shift in (("rte", 0.0), ("cola", -0.3))
        for method, final in (("full", 0.8 + shift), ("lora", 0.7 + shift), ("lora2", 0.75 + shift))
        for seed in (0, 1)
    ]
    found += [
        measured("rte", "lora2", seed, 0.6 + 0.01 * seed, lr=lr, cut=(f"train.lr={lr}",))
        for lr in (1e-4, 1e-2)
        for seed in (0, 1)
    ]
    found += [measured("rte", "lora2", 2, 0.96, lr=1e-2, cut=("train.lr=0.01",))]
    found += [measured("rte", "lora2", 0, 0.74, protocol="clean")]
    found += [measured("rte", "lora", seed, 0.3, max_train=64, cut=("data.max_train=64",)) for seed in (0, 1, 2)]
    return [*found, make_failed(make_cell("rte", "full", seed=9))]
