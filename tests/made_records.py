"""Records as a run leaves them, made without training."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from lora2_bench.experiment.cell import Cell, Data, Model, Protocol, Train
from lora2_bench.experiment.suites import rows
from lora2_bench.records.identity import LEFT_OUT
from lora2_bench.records.record import DONE, FAILED, Record
from lora2_bench.records.schema import Evaluation, Result, RunFacts, Scoring
from lora2_bench.tasks.spec import TASKS

METRIC = {"cola": "matthews_correlation", "stsb": "pearson"}
METHODS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "full": (None, {"name": "full"}),
    "lora": ("r", {"name": "lora", "r": 8, "alpha": 16, "targets": ["q", "v"]}),
    "lora2": ("k", {"name": "lora2", "k": 1, "r": 8, "alpha": 16, "targets": ["q", "k", "v", "o", "f1", "f2"]}),
}


def make_cell(
    task: str = "rte",
    method: str = "lora2",
    *,
    seed: int = 0,
    model: str = "minilm",
    source: str = "mini",
    protocol: str = "paper",
    options: dict[str, Any] | None = None,
    max_train: int | None = None,
    row: str | None = None,
    rng_version: int = 1,
    **train: Any,
) -> Cell:
    """A cell with every field given, independent of conf/ but for a table's `row`, which then stands for `method`.

    `options` and `train` replace values.
    """
    size, values = METHODS[method] if row is None else row_method(row)
    recipe = Train(
        epochs=5,
        max_steps=None,
        batch_size=32,
        accumulate=1,
        lr=1e-3,
        weight_decay=0.0,
        schedule="linear",
        warmup=0.06,
        max_grad_norm=1.0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_eps=1e-8,
        max_length=128,
        cls_dropout=None,
        eval_steps=None,
        precision="fp32",
    )
    return Cell(
        model=Model(model, "package", "ab" * 32, None, None),
        task=task,
        method={**values, **(options or {})},
        size=size,
        data=Data(source, 0 if source == "mini" else None, max_train, None),
        train=dataclasses.replace(recipe, **train),
        protocol=Protocol(protocol, 0.0 if protocol == "paper" else 0.1, 0),
        seed=seed,
        rng_version=rng_version,
    )


def row_method(name: str) -> tuple[str | None, dict[str, Any]]:
    """The size's name and the method's values of a row of the paper's tables."""
    spec = rows()[name]
    values: dict[str, Any] = {"name": spec.method}
    for leaf, value in {**spec.defaults, **spec.settings}.items():
        if f"method.{leaf}" in LEFT_OUT:  # as in the records of earlier versions
            continue
        *sections, last = leaf.split(".")
        part = values
        for section in sections:
            part = part.setdefault(section, {})
        part[last] = value
    return spec.size_name, values


def make_row_record(row: str, task: str, seed: int = 0, best: float = 80.0, last: float = 79.0, **more: Any) -> Record:
    """A finished cell of a table's row on GLUE's own rows, with every split's metrics; scores in points.

    `result` and `run` replace parts of the result and of the run; the rest goes to `make_cell`.
    """
    result, run = more.pop("result", {}), more.pop("run", {})
    cut = more.pop("cut", ())
    cell = make_cell(task, row=row, seed=seed, **{"model": "deberta_v3_base", "source": "hub", **more})
    spec = TASKS[task]

    def at(step: int, points: float) -> dict[str, Any]:
        # Splits and metrics of one task differ, and their mean is the score.
        names = [(split, name) for split in spec.dev_splits for name in spec.main]
        shift = {place: (index - (len(names) - 1) / 2) / 100 for index, place in enumerate(names)}
        metrics = {
            split: {name: points / 100 + shift.get((split, name), 0.0) for name in spec.metrics}
            for split in spec.dev_splits
        }
        return {"step": step, "score": points / 100, "metrics": metrics}

    facts = {"best": at(63, best), "last": None if cell.protocol.name == "clean" else at(126, last), **result}
    record = make_record(cell, cut=cut)
    made = {"seconds_per_step": 0.1 + seed / 1000, "versions": {"lora2_bench": "0.1.0"}, "hardware": {"gpu": "GPU X"}}
    return dataclasses.replace(
        record, result=cast(Result, {**record.result, **facts}), run=cast(RunFacts, {**record.run, **made, **run})
    )


def make_record(
    cell: Cell, best: float = 0.8, last: float = 0.75, *, official: bool = True, cut: tuple[str, ...] = (), **facts: Any
) -> Record:
    """The record of a finished cell with these scores; `facts` replace parts of its result."""
    metric = METRIC.get(cell.task, "accuracy")
    adapter = {"full": 1000, "lora": 240}.get(cell.method["name"], 120) * (cell.size_value or 1)

    def at(step: int, score: float) -> Scoring:
        return made_scoring(cell.task, step, score)

    result: dict[str, Any] = {
        "main_metric": metric,
        "size": {"name": cell.size, "value": cell.size_value, "quotient": cell.quotient},
        "data": {
            "source": cell.data.source,
            "official": official and cell.data.source != "mini",
            "source_rows": TASKS[cell.task].rows,
            "rows": {"train": 2000, "dev": 400},
            "sha256": "cd" * 32,
            "notes": [],
        },
        "backbone": {"name": cell.model.name, "sha256": "ab" * 32},
        "parameters": {"adapter": adapter, "head": 50, "active": adapter - 20},
        "evaluations": [made_evaluation(cell.task, 63, 1.0, best), made_evaluation(cell.task, 126, 2.0, last)],
        "best": at(63, best),
        "last": None if cell.protocol.name == "clean" else at(126, last),
        "steps": 126,
        "epochs": 2.0,
        **facts,
    }
    run: RunFacts = {"finished": "2025-01-01T00:00:00+00:00", "seconds": 12.34, "command": [f"task={cell.task}"]}
    return Record(cell.id, DONE, cell.to_dict(), cell.method_label, list(cut), cast(Result, result), run)


def made_scoring(task: str, step: int, score: float) -> Scoring:
    """A scoring whose every split has the task's deciding metric alone."""
    metrics: Any = {split: {METRIC.get(task, "accuracy"): score} for split in TASKS[task].dev_splits}
    return {"step": step, "score": score, "metrics": metrics}


def made_evaluation(task: str, step: int, epoch: float, score: float) -> Evaluation:
    """The same during training."""
    return {**made_scoring(task, step, score), "epoch": epoch, "train_loss": 0.5}


def make_failed(cell: Cell, step: int = 7, cause: str = "the loss is nan") -> Record:
    """The record of a cell that ended early."""
    record = make_record(cell)
    before_training = ("main_metric", "size", "data", "backbone", "parameters")
    keep = {name: value for name, value in record.result.items() if name in before_training}
    return dataclasses.replace(record, status=FAILED, result=cast(Result, keep), error={"step": step, "cause": cause})
