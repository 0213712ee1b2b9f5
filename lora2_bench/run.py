"""Run one plan: look its cell up, else train and score it, and keep the record."""

from __future__ import annotations

import os
import random
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora2_bench.cell import Cell
from lora2_bench.errors import CellFailed, UserError
from lora2_bench.plan import Place, Plan
from lora2_bench.record import (
    DONE,
    FAILED,
    Record,
    code_state,
    hardware,
    peak_memory,
    result_line,
    scrub,
    versions,
)
from lora2_bench.store import Store, write_json
from lora2_bench.tasks.data import Split, TaskData
from lora2_bench.tasks.metrics import main_name

if TYPE_CHECKING:  # torch and its kin take seconds to import: a finished cell is printed without them
    from torch import Tensor

    from lora2_bench.methods.base import Method
    from lora2_bench.train import Outcome


def run(plan: Plan) -> Record:
    """The plan's record: the stored one of a finished cell, else that of a new run. Prints the result line last.

    Raises UserError for bad input, before training; CellFailed when training ended early (its record is stored).
    """
    store = Store(plan.place.results)
    path = str(store.path(plan.cell.id))
    if not plan.place.rerun and (known := store.read(plan.cell.id)) is not None and known.is_done:
        print(result_line(known, path))
        return known
    check_fit(plan, plan.cell.spec.rows["train"])
    store.check_writable()
    record = run_cell(plan, store)
    print(result_line(record, path))
    if record.error is not None:
        raise CellFailed(record.error["step"], record.error["cause"])
    return record


def check_fit(plan: Plan, official_rows: int) -> None:
    """Raise UserError where the method's options are impossible, or do not fit the run's steps, judged by row counts."""
    from lora2_bench.methods.base import load_method

    cell = plan.cell
    rows = 2000 if cell.data.source == "mini" else official_rows
    rows = min(rows, cell.data.max_train or rows)
    held_out = held_out_rows(cell, rows)
    method = load_method(plan.implementation)
    method.check(method.parse(method_values(cell)), cell.train.total_steps(rows - held_out))


def method_values(cell: Cell) -> dict[str, Any]:
    """The method's options, without its name."""
    return {name: value for name, value in cell.method.items() if name != "name"}


def held_out_rows(cell: Cell, rows: int) -> int:
    """Rows of train that choose the checkpoint under `protocol=clean`; 0 under `paper`."""
    return round(cell.protocol.held_out * rows)


def sample(split: Split, rows: int | None) -> Split:
    """At most `rows` rows of a split: a sample, the same for every cell, in the split's order."""
    if rows is None or rows >= len(split):
        return split
    return split.take(sorted(random.Random(0).sample(range(len(split)), rows)))


def prepare_rows(cell: Cell, data: TaskData) -> tuple[Split, dict[str, Split], dict[str, Split]]:
    """(train, splits that choose the checkpoint, splits that are scored in the end), cut as the cell says.

    Under `paper` the last two are the same dev splits. Under `clean` the checkpoint is chosen on rows held out of
    train, and dev is not looked at before.
    """
    train = sample(data.splits["train"], cell.data.max_train)
    dev = {name: sample(data.splits[name], cell.data.max_eval) for name in cell.spec.dev_splits}
    count = held_out_rows(cell, len(train))
    if cell.protocol.name == "paper":
        return train, dev, dev
    if not 0 < count < len(train):
        raise UserError(
            f"protocol.held_out={cell.protocol.held_out} of {len(train)} train rows leaves no rows on one side: give "
            "another share"
        )
    order = list(range(len(train)))
    random.Random(cell.protocol.split_seed).shuffle(order)
    held_out = train.take(sorted(order[:count]))
    return train.take(sorted(order[count:])), {"held_out": held_out}, dev


def run_cell(plan: Plan, store: Store) -> Record:
    """Train and score one cell, and store its record, dev predictions and adapter. A failed run is stored as failed."""
    import torch

    from lora2_bench import train as loop
    from lora2_bench.backbone import load_backbone
    from lora2_bench.methods.base import load_method
    from lora2_bench.tasks.batches import encode
    from lora2_bench.tasks.sources import load_task
    from lora2_bench.tracker import make_tracker

    cell, place = plan.cell, plan.place
    started = time.perf_counter()
    device = pick_device(place)
    if place.threads:
        torch.set_num_threads(place.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)

    data = load_task(cell.task, cell.data.source, glue_dir=place.data_dir, mini_seed=cell.data.seed or 0)
    train_split, choose_splits, dev_splits = prepare_rows(cell, data)
    total_steps = cell.train.total_steps(len(train_split))
    kind = load_method(plan.implementation)
    options = kind.parse(method_values(cell))
    kind.check(options, total_steps)

    torch.manual_seed(cell.seed)  # the head's first weights: the same for every method
    backbone = load_backbone(
        cell.model,
        cell.spec.num_labels,
        cls_dropout=cell.train.cls_dropout,
        path=place.model_path,
        package=place.model_package,
        folder=place.model_folder,
    )
    assert backbone.tokenizer is not None

    def encoded(split: Split) -> Any:
        return encode(split, cell.spec, backbone.tokenizer, cell.train.max_length)  # type: ignore[arg-type]

    train_rows = encoded(train_split)
    choose_rows = {name: encoded(split) for name, split in choose_splits.items()}
    method = kind(options, total_steps)
    accelerator = loop.make_accelerator(cell.train.precision, device)
    backbone.model.to(accelerator.device)
    method.inject(backbone, torch.Generator().manual_seed(cell.seed))

    facts: dict[str, Any] = {
        "main_metric": main_name(cell.spec),
        "data": {
            "source": data.source,
            "rows": {"train": len(train_split), **{name: len(s) for name, s in (choose_splits | dev_splits).items()}},
            "source_rows": data.rows,
            "official": data.is_official,
            "sha256": data.content_hash(),
            "notes": data.notes,
        },
        "backbone": {"name": backbone.name, "sha256": backbone.sha256},
        "parameters": method.parameters(),
        "size": {"name": cell.size, "value": cell.size_value, "quotient": cell.quotient},
    }
    tracker = make_tracker(place.tracker, cell, place.results)
    ready = time.perf_counter()

    def record(status: str, result: dict[str, Any], times: dict[str, Any], error: dict[str, Any] | None = None) -> Record:
        facts_of_run = {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - started, 3),
            "seconds_to_first_step": round(ready - started, 3),
            **times,
            "memory": peak_memory(device),
            "versions": versions(),
            "code": code_state(),
            "hardware": hardware(device, torch.get_num_threads()),
            "command": [scrub(part) for part in plan.command],
        }
        labels = {"id": cell.id, "cell": cell.to_dict(), "label": cell.method_label, "cut": list(plan.cut)}
        return Record(**labels, status=status, result={**facts, **result}, run=facts_of_run, error=error)

    try:
        outcome = loop.train(
            cell,
            method,
            train_rows,
            choose_rows,
            accelerator,
            eval_batch_size=place.eval_batch_size,
            on_evaluation=tracker.evaluation,
        )
    except CellFailed as failure:
        failed = record(FAILED, {}, {}, {"step": failure.step, "cause": failure.cause})
        tracker.finish(failed)
        store.write(failed)
        return failed

    result = results_of(method, outcome)
    loop.load_trained_state(method, outcome.best_state)
    if cell.protocol.name == "clean":
        dev_rows = {name: encoded(split) for name, split in dev_splits.items()}
        logits, metrics = loop.score(backbone.model, cell.spec, dev_rows, accelerator, place.eval_batch_size)
        result["best"] = {"step": outcome.best_step, "score": loop.main_score(cell.spec, metrics), "metrics": metrics}
        result["last"] = None  # dev is scored once
        predictions = prediction_table(dev_splits, {"best": logits})
    else:
        predictions = prediction_table(dev_splits, {"best": outcome.best, "last": outcome.last})

    done = record(DONE, result, {"seconds_per_step": round(outcome.seconds_per_step, 6)})

    def beside(folder: Path) -> None:
        write_json(folder / "predictions.json", predictions)
        if method.lora_factors() is not None:
            from lora2_bench.export import export_adapter

            export_adapter(folder / "adapter", method, backbone)

    store.write(done, beside)
    tracker.finish(done)
    return done


def pick_device(place: Place) -> str:
    """`cpu` or `cuda`. Raises UserError where a GPU is asked for and there is none."""
    import torch

    if place.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: torch finds no GPU here: give device=cpu, or device=auto to take what there is")
    device = "cpu" if place.device == "cpu" or not torch.cuda.is_available() else "cuda"
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    return device


def results_of(method: Method, outcome: Outcome) -> dict[str, Any]:
    """The part of a record that training gives. `best` and `last` are on the splits that choose the checkpoint."""
    by_step = {evaluation.step: evaluation for evaluation in outcome.evaluations}

    def at(step: int) -> dict[str, Any]:
        return {"step": step, "score": by_step[step].score, "metrics": by_step[step].metrics}

    return {
        "evaluations": [asdict(evaluation) for evaluation in outcome.evaluations],
        "best": at(outcome.best_step),
        "last": at(outcome.steps),
        "steps": outcome.steps,
        "epochs": outcome.epochs,
        "parameters": method.parameters(),
        **method.summary(),
    }


def prediction_table(splits: dict[str, Split], logits: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    """Per split: labels in row order, and the logits of each named checkpoint to nine digits (exact for float32)."""

    def exact(rows: Tensor) -> list[list[float]]:
        return [[float(f"{value:.9g}") for value in row] for row in rows.tolist()]

    return {
        name: {"labels": split.labels, **{when: exact(by_split[name]) for when, by_split in logits.items()}}
        for name, split in splits.items()
    }
