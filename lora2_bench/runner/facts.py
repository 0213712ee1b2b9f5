"""The parts of a record: rows, backbone, results, predictions, times and hardware."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, cast

from torch import Tensor

from lora2_bench.errors import CellFailed
from lora2_bench.experiment.cell import Cell
from lora2_bench.experiment.plan import Plan
from lora2_bench.methods.base import Method
from lora2_bench.records.record import DONE, FAILED, Record
from lora2_bench.records.schema import Metrics, Parameters, Result, RunFacts, Scoring
from lora2_bench.records.scrub import scrub, scrubbed
from lora2_bench.runner.rows import Rows
from lora2_bench.tasks.data import Split, TaskData
from lora2_bench.tasks.metrics import main_name
from lora2_bench.training.checkpoints import Checkpoints
from lora2_bench.training.loop import Outcome
from lora2_bench.training.machine import hardware, peak_memory, versions


def facts_of(cell: Cell, data: TaskData, rows: Rows, method: Method, origin_task: str | None) -> Result:
    """What a record says of the rows, the backbone and the method before training."""
    facts: Result = {
        "main_metric": main_name(cell.spec),
        "size": {"name": cell.size, "value": cell.size_value, "quotient": cell.quotient},
        "data": {
            "source": data.source,
            "official": data.is_official,
            "source_rows": data.rows,
            "rows": rows.counts(),
            "sha256": data.content_hash(),
            "notes": data.notes,
        },
        "backbone": {"name": method.backbone.name, "sha256": method.backbone.sha256},
        "parameters": cast(Parameters, method.parameters()),
    }
    if not cell.spec.is_regression:
        facts["data"]["labels"] = rows.labels(cell.spec.num_labels)
    if cell.init_from is not None and origin_task is not None:
        facts["init_from"] = {"cell": cell.init_from, "task": origin_task}
    return facts


def scoring(step: int, score: float, metrics: dict[str, dict[str, float]], at_scoring: dict[str, Any]) -> Scoring:
    """The scores after `step` optimiser steps, with the method's facts of then, as a record holds them."""
    scores: Scoring = {"step": step, "score": score, "metrics": cast(dict[str, Metrics], metrics)}
    return cast(Scoring, {**scores, **at_scoring})


def with_results(facts: Result, method: Method, outcome: Outcome) -> Result:
    """`facts` with what training gives a record; `best` and `last` on the splits that choose the checkpoint."""
    by_step = {evaluation.step: evaluation for evaluation in outcome.evaluations}

    def at(step: int, at_scoring: dict[str, Any]) -> Scoring:
        return scoring(step, by_step[step].score, by_step[step].metrics, at_scoring)

    found = {
        "evaluations": [asdict(evaluation) for evaluation in outcome.evaluations],
        "best": at(outcome.best_step, outcome.best_facts),
        "last": at(outcome.steps, outcome.last_facts),
        "steps": outcome.steps,
        "epochs": outcome.epochs,
        "parameters": method.parameters(),
        **method.summary(),
    }
    return cast(Result, {**facts, **found})


def prediction_table(splits: dict[str, Split], logits: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    """Per split: labels in row order, and the logits of each named checkpoint to nine digits (exact for float32)."""

    def exact(rows: Tensor) -> list[list[float]]:
        return [[float(f"{value:.9g}") for value in row] for row in rows.tolist()]

    return {
        name: {"labels": split.labels, **{when: exact(by_split[name]) for when, by_split in logits.items()}}
        for name, split in splits.items()
    }


def run_facts(
    plan: Plan, times: dict[str, Any], checkpoints: Checkpoints, sources: str | None, device: str
) -> RunFacts:
    """What may differ between two runs of one cell: times, memory, versions, code, hardware, command and its paths."""
    facts = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **times,
        "engine": plan.run_options.engine,
        "memory": peak_memory(device),
        "versions": versions(),
        "code": checkpoints.code,
        **({"code_before": checkpoints.code_before} if checkpoints.code_before else {}),
        **({"sources": sources} if sources else {}),
        "hardware": hardware(device),
        "command": scrubbed(plan.command),
        "config": scrubbed(plan.config),
    }
    return cast(RunFacts, facts)


def record_of(
    plan: Plan,
    facts: Result,
    times: dict[str, Any],
    checkpoints: Checkpoints,
    sources: str | None,
    device: str,
    failure: CellFailed | None,
) -> Record:
    """The record of a run that has ended: finished, or failed with its step and cause."""
    return Record(
        id=plan.cell.id,
        status=DONE if failure is None else FAILED,
        cell=plan.cell.to_dict(),
        label=plan.cell.method_label,
        cut=list(plan.cut),
        result=facts,
        run=run_facts(plan, times, checkpoints, sources, device),
        error=None if failure is None else {"step": failure.step, "cause": scrub(failure.cause)},
    )
