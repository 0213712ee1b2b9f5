"""The only training loop. It knows no method by name and writes no file but checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from lora2_bench.backbones.joined import joined
from lora2_bench.backbones.masks import MaskStream
from lora2_bench.errors import CellFailed, Interrupted
from lora2_bench.experiment.cell import Cell
from lora2_bench.methods.base import Method
from lora2_bench.tasks.encoding import EncodedSplit
from lora2_bench.training.batches import training_batches
from lora2_bench.training.checkpoints import Checkpoints
from lora2_bench.training.evaluation import Evaluation, Logits, evaluate
from lora2_bench.training.pack import Pack
from lora2_bench.training.ranks import SINGLE_PROCESS, Ranks
from lora2_bench.training.state import Progress, resume, save_checkpoint
from lora2_bench.training.step import TrainingStep
from lora2_bench.training.streams import DROPOUT, RandomStreams


@dataclass
class Outcome:
    """The result of a run.

    Attributes:
        evaluations: on the splits that select the checkpoint, in order.
        best_step: step of the first highest score among them.
        best, last: logits per split at that step and at the end, (rows, outputs) in row order, float32 on the CPU.
        best_state: trained weights at the best step, on the CPU.
        best_facts, last_facts: the method's facts at the best step and at the end, as `Method.at_scoring`.
        steps, epochs: length of the run.
        seconds_per_step: mean wall time of a training step, evaluations left out.
        continued_from: the step of the checkpoint that this process started from, or None.
    """

    evaluations: list[Evaluation]
    best_step: int
    best: Logits
    last: Logits
    best_state: dict[str, Tensor]
    best_facts: dict[str, Any]
    last_facts: dict[str, Any]
    steps: int
    epochs: float
    seconds_per_step: float
    continued_from: int | None = None


def train(
    cell: Cell,
    method: Method,
    train_rows: EncodedSplit,
    eval_rows: Mapping[str, EncodedSplit],
    accelerator: Accelerator,
    *,
    eval_batch_size: int,
    on_evaluation: Callable[[Evaluation], None],
    checkpoints: Checkpoints | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    ranks: Ranks = SINGLE_PROCESS,
    on_step: Callable[[int, int, list[Evaluation]], None] = lambda *_: None,
    masks: MaskStream | None = None,
    pack: Pack | None = None,
) -> Outcome:
    """Train the injected `method` on `train_rows`, scoring `eval_rows` as it goes.

    With `checkpoints` it continues from the newest of them: on a CPU, with the numbers of a run that never stopped.
    The last step writes one too, for what comes after it may fail. After each step `stop_requested` is called, and
    `on_step` with the step, their total and the evaluations so far. The processes of `ranks` share the rows of every
    batch and end alike; the main one scores and writes checkpoints. `masks` are what the backbone's dropout draws from
    where that is not torch's generator. In a `pack` this call is one of those that it runs.
    Raises CellFailed with the step and its cause when the loss is not finite, OutOfMemory with what to set, and
    Interrupted, after a last checkpoint, on a requested stop.
    """
    settings, total = cell.train, cell.train.total_steps(len(train_rows))
    per_epoch = settings.steps_per_epoch(len(train_rows))
    training_step = TrainingStep(method, settings, total, accelerator, ranks, masks, pack)
    evaluate_at = partial(evaluate, training_step.model, cell.spec, eval_rows, accelerator, eval_batch_size)
    # What draws from torch's generator draws the same numbers whatever was drawn while the model was built, and others
    # in each process.
    streams = RandomStreams.of(cell)
    torch.manual_seed(streams.seed_of(DROPOUT, ranks.rank))
    progress = resume(checkpoints, training_step)
    continued_from = progress.step or None
    batches = training_batches(train_rows, settings.batch_size, streams, progress.step)
    on_step(progress.step, total, progress.evaluations)

    together = nullcontext() if pack is None else joined(training_step.model, pack)
    with together, progress_bar(cell, progress.step, total, ranks) as bar:
        for step in range(progress.step + 1, total + 1):
            started = time.perf_counter()
            loss = training_step(next(batches), step)
            progress.add_step(loss, time.perf_counter() - started)
            bar.set_postfix_str(f"loss {loss:.3f}, {progress.scored}", refresh=False)
            bar.update()
            if settings.evaluates(step, total, per_epoch):
                scored = partial(evaluate_at, step, step / per_epoch, progress.mean_loss)
                evaluation, logits = ranks.on_main(scored)
                progress.add_evaluation(evaluation, logits, method)
                on_evaluation(evaluation)
            on_step(step, total, progress.evaluations)
            stopped = step < total and ranks.any(stop_requested())
            save_checkpoint(checkpoints, progress, training_step, at_once=stopped or step == total)
            if stopped:
                raise Interrupted(step, checkpoints.newest_step if checkpoints is not None else 0)
    try:
        method.finish()
    except ValueError as error:
        raise CellFailed(progress.step, str(error)) from None
    return outcome_of(progress, method, per_epoch, continued_from)


def progress_bar(cell: Cell, done: int, total: int, ranks: Ranks) -> Any:
    """The bar of a run that has taken `done` of its `total` steps; only the main process shows it."""
    label = f"{cell.task} {cell.method_label}"
    return tqdm(total=total, initial=done, desc=label, unit="step", mininterval=0.5, disable=not ranks.is_main)


def outcome_of(progress: Progress, method: Method, per_epoch: int, continued_from: int | None) -> Outcome:
    """The result of a finished run."""
    return Outcome(
        evaluations=progress.evaluations,
        best_step=progress.best_step,
        best=progress.best,
        last=progress.last,
        best_state=progress.best_state,
        best_facts=progress.best_facts,
        last_facts=method.at_scoring(),
        steps=progress.step,
        epochs=round(progress.step / per_epoch, 4),
        seconds_per_step=progress.seconds / progress.step,
        continued_from=continued_from,
    )
