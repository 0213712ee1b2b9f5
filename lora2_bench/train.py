"""The only training loop. It knows no method by name and writes no file but checkpoints."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_scheduler

from lora2_bench.checkpoint import Checkpoints
from lora2_bench.crew import ALONE, Crew
from lora2_bench.errors import CellFailed, Interrupted, OutOfMemory, UserError
from lora2_bench.experiment.cell import Cell, Train
from lora2_bench.experiment.checks import in_steps
from lora2_bench.methods.base import Method
from lora2_bench.tasks.batches import BucketSampler, by_length
from lora2_bench.tasks.encoding import Encoded
from lora2_bench.tasks.metrics import glue_metric, main_score
from lora2_bench.tasks.spec import TaskSpec

Logits = dict[str, Tensor]


@dataclass
class Evaluation:
    """One scoring of the evaluation splits.

    Attributes:
        step, epoch: when, in optimiser steps and passes over train.
        score: the task's deciding number.
        metrics: split -> {metric: value}, with the mean loss (without any penalty).
        train_loss: mean training loss since the evaluation before, without the penalty.
    """

    step: int
    epoch: float
    score: float
    metrics: dict[str, dict[str, float]]
    train_loss: float | None = None


@dataclass
class Outcome:
    """What a run gives.

    Attributes:
        evaluations: on the splits that choose the checkpoint, in order.
        best_step: step of the first highest score among them.
        best, last: logits per split at that step and at the end, (rows, outputs) in row order, float32 on the CPU.
        best_state: trained weights at the best step, on the CPU.
        steps, epochs: how far it went.
        seconds_per_step: mean wall time of a training step, evaluations left out.
        continued_from: the step of the checkpoint that this process started from, or None.
    """

    evaluations: list[Evaluation]
    best_step: int
    best: Logits
    last: Logits
    best_state: dict[str, Tensor]
    steps: int
    epochs: float
    seconds_per_step: float
    continued_from: int | None = None


@dataclass
class _Progress:
    """How far a run has come: what a checkpoint holds of the loop itself."""

    step: int
    evaluations: list[Evaluation]
    best_step: int
    best: Logits
    best_state: dict[str, Tensor]
    last: Logits
    loss_sum: float
    since_evaluation: int
    seconds: float

    @property
    def best_score(self) -> float:
        return max((evaluation.score for evaluation in self.evaluations), default=-math.inf)

    def take(self, evaluation: Evaluation, logits: Logits, method: Method) -> None:
        """Add an evaluation and its logits; of the best so far, keep the weights. Raises CellFailed for NaN."""
        if not math.isfinite(evaluation.score):
            cause = f"the score is {evaluation.score}: the model's outputs are no finite numbers"
            raise CellFailed(evaluation.step, cause)
        if evaluation.score > self.best_score:
            self.best_step, self.best, self.best_state = evaluation.step, logits, trained_state(method)
        self.last = logits
        self.evaluations.append(evaluation)
        self.loss_sum, self.since_evaluation = 0.0, 0

    @property
    def scored(self) -> str:
        """The scores so far, for the progress bar."""
        if not self.evaluations:
            return "not scored yet"
        return f"score {self.evaluations[-1].score:.4f}, best {self.best_score:.4f}"


def make_accelerator(precision: str, device: str) -> Accelerator:
    """An Accelerator for one cell; state of an earlier cell in this process is dropped.

    Under `accelerate launch` it joins the other processes, which wait for each other as long as an evaluation takes.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    patient = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    mixed = "bf16" if precision == "bf16" else "no"
    return Accelerator(mixed_precision=mixed, cpu=device == "cpu", kwargs_handlers=[patient])


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over classes, or mean squared error for one output. logits: (rows, outputs)."""
    if logits.shape[-1] == 1:
        return nn.functional.mse_loss(logits.squeeze(-1).float(), labels.float())
    return nn.functional.cross_entropy(logits.float(), labels)


def train(
    cell: Cell,
    method: Method,
    train_rows: Encoded,
    eval_rows: Mapping[str, Encoded],
    accelerator: Accelerator,
    *,
    eval_batch_size: int,
    on_evaluation: Callable[[Evaluation], None],
    checkpoints: Checkpoints | None = None,
    stop: Callable[[], bool] = lambda: False,
    crew: Crew = ALONE,
    on_step: Callable[[int, int, list[Evaluation]], None] = lambda *_: None,
) -> Outcome:
    """Train the injected `method` on `train_rows`, scoring `eval_rows` as it goes.

    With `checkpoints` it continues from the newest of them: on a CPU, with the numbers of a run that never stopped.
    The end of training is a checkpoint too: what comes after it may fail. `stop` is asked after every step, and
    `on_step` is told the step, their total and the evaluations so far. Raises CellFailed with the step and its cause
    when the loss is no finite number, OutOfMemory with what to set, and Interrupted, after a last checkpoint, where it
    was to stop. The processes of a `crew` share the rows of every batch and end alike; the main one scores and keeps
    checkpoints.
    """
    settings, spec = cell.train, cell.spec
    model: nn.Module = method.backbone.model
    total = settings.total_steps(len(train_rows))
    every = settings.eval_steps or settings.steps_per_epoch(len(train_rows))

    sampler = BucketSampler(train_rows.lengths(), settings.batch_size, cell.seed)
    loader = DataLoader(train_rows, batch_sampler=sampler, collate_fn=train_rows.collate)
    model = accelerator.prepare_model(model, evaluation_mode=True)  # not wrapped: the crew sums the gradients below
    groups = method.optimizer_groups(settings.weight_decay)
    trained: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
    betas = (settings.adam_beta1, settings.adam_beta2)
    optimizer = AdamW(groups, lr=settings.lr, betas=betas, eps=settings.adam_eps)
    scheduler = get_scheduler(settings.schedule, optimizer, in_steps(settings.warmup, total), total)
    optimizer = accelerator.prepare_optimizer(optimizer)

    progress = _Progress(0, [], 0, {}, {}, {}, 0.0, 0, 0.0)
    random_state: dict[str, Any] | None = None
    continued_from: int | None = None
    if checkpoints is not None and (found := crew.by_main(checkpoints.load)) is not None:
        progress, random_state = _restore(found, method, optimizer, scheduler, crew)
        continued_from = progress.step
    # Dropout draws the same numbers whatever was drawn while the model was built, and others in each process.
    torch.manual_seed(cell.seed + crew.rank * 2**32)

    label = f"{cell.task} {cell.method_label}"
    per_epoch, fix = len(sampler), _smaller_step(settings)
    on_step(progress.step, total, progress.evaluations)
    mark = time.perf_counter()
    with tqdm(
        total=total, initial=progress.step, desc=label, unit="step", mininterval=0.5, disable=not crew.is_main
    ) as bar:
        while progress.step < total:
            epoch, skip = divmod(progress.step, per_epoch)
            sampler.begin(epoch, skip)
            if random_state is not None and skip == 0:
                _set_random_state(random_state, accelerator)
                random_state = None
            for batch in loader:
                if random_state is not None:  # within an epoch only now: making the loader's iterator drew a number
                    _set_random_state(random_state, accelerator)
                    random_state = None
                step = progress.step + 1
                size = _size(batch, settings.accumulate)
                with crew.together(), _memory_for(step, size, fix):
                    model.train()
                    loss = _backward(model, method, batch, settings.accumulate, accelerator, crew)
                crew.sum_([loss, *_gradients(trained, crew)])
                if not math.isfinite(loss_now := loss.item()):
                    cause = f"the training loss is {loss_now}: lower train.lr={settings.lr}, or warm up longer"
                    raise CellFailed(step, cause)
                with crew.together(), _memory_for(step, size, fix):
                    if settings.max_grad_norm > 0:
                        accelerator.clip_grad_norm_(trained, settings.max_grad_norm)
                    method.after_backward(step)
                    optimizer.step()
                    scheduler.step()
                    method.after_step(step)
                    method.clear_gradients(optimizer)
                progress.step = step
                progress.loss_sum += loss_now
                progress.since_evaluation += 1
                progress.seconds += time.perf_counter() - mark
                bar.set_postfix_str(f"loss {loss_now:.3f}, {progress.scored}", refresh=False)
                bar.update()

                if step % every == 0 or step == total:
                    scoring = partial(score, model, spec, eval_rows, accelerator, eval_batch_size, step)
                    logits, metrics = crew.by_main(scoring)
                    mean_loss = progress.loss_sum / progress.since_evaluation
                    epochs = round(step / per_epoch, 4)
                    evaluation = Evaluation(step, epochs, main_score(spec, metrics), metrics, mean_loss)
                    progress.take(evaluation, logits, method)
                    on_evaluation(evaluation)
                on_step(step, total, progress.evaluations)
                stopped = step < total and crew.any(stop())
                if checkpoints is not None:
                    now = stopped or step == total or checkpoints.due(step)
                    state = partial(_state, progress, method, optimizer, scheduler)
                    _keep(checkpoints, now, step, state, accelerator, crew)
                if stopped:
                    raise Interrupted(step, checkpoints.kept if checkpoints is not None else 0)
                mark = time.perf_counter()
                if step == total:
                    break
    try:
        method.finish()
    except ValueError as error:
        raise CellFailed(progress.step, str(error)) from None
    return Outcome(
        progress.evaluations,
        progress.best_step,
        progress.best,
        progress.last,
        progress.best_state,
        total,
        round(total / per_epoch, 4),
        progress.seconds / total,
        continued_from,
    )


def _keep(
    checkpoints: Checkpoints,
    now: bool,
    step: int,
    state: Callable[[list[dict[str, Any]]], dict[str, Any]],
    accelerator: Accelerator,
    crew: Crew,
) -> None:
    """Write a checkpoint where it is time, by the main process's clock."""
    if crew.any(now and crew.is_main):
        random_states = crew.gather(_random_state(accelerator))
        if crew.is_main:
            checkpoints.save(step, state(random_states))


def _state(
    progress: _Progress, method: Method, optimizer: Any, scheduler: Any, random_states: list[dict[str, Any]]
) -> dict[str, Any]:
    """All that the next step depends on, as tensors and plain data; one random state per process."""
    return {
        "progress": {**vars(progress), "evaluations": [asdict(one) for one in progress.evaluations]},
        "trained": trained_state(method),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "method": method.state_dict(),
        "engine": method.engine,
        "random": random_states,
    }


def _restore(
    state: Mapping[str, Any], method: Method, optimizer: Any, scheduler: Any, crew: Crew
) -> tuple[_Progress, dict[str, Any] | None]:
    """Put a `_state` back; this process's random state is returned, to be set where the state was taken.

    There is none where another number of processes took it: a line says so, and dropout draws other numbers. Raises
    UserError for a state of the other engine, whose optimiser sees other tensors.
    """
    if (engine := state["engine"]) != method.engine:
        raise UserError(
            f"engine={method.engine}: this cell is at step {state['progress']['step']} with engine={engine}: give "
            f"engine={engine} to go on"
        )
    load_trained_state(method, state["trained"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    method.load_state_dict(state["method"])
    values = dict(state["progress"])
    evaluations = [Evaluation(**one) for one in values.pop("evaluations")]
    progress = _Progress(evaluations=evaluations, **values)
    if (before := len(state["random"])) != crew.count:
        if crew.is_main:
            line = f"warning: {before} processes trained {progress.step} steps and {crew.count} go on: dropout differs"
            print(line, file=sys.stderr)
        return progress, None
    return progress, state["random"][crew.rank]


def _random_state(accelerator: Accelerator) -> dict[str, Any]:
    """What this process draws its dropout from."""
    on_gpu = accelerator.device.type == "cuda"
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(accelerator.device) if on_gpu else None}


def _set_random_state(state: Mapping[str, Any], accelerator: Accelerator) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], accelerator.device)


def _backward(
    model: nn.Module, method: Method, batch: dict[str, Tensor], parts: int, accelerator: Accelerator, crew: Crew
) -> Tensor:
    """Gradients of one step's loss and penalty, in pieces that add up to the whole batch; returns the loss.

    The batch is cut into `parts` pieces for each process, which goes through its own: over all processes, gradients and
    losses sum up to the step's. The first piece carries the penalty.
    """
    rows = len(batch["labels"])
    size = math.ceil(rows / (parts * crew.count))
    total = torch.zeros((), device=accelerator.device)
    for start in range(0, rows, size)[crew.rank * parts : (crew.rank + 1) * parts]:
        piece = {name: tensor[start : start + size].to(accelerator.device) for name, tensor in batch.items()}
        labels = piece.pop("labels")
        with accelerator.autocast():
            logits = model(**piece).logits
        loss = loss_of(logits, labels) * (len(labels) / rows)
        total += loss.detach()
        penalty = method.penalty() if start == 0 else None
        accelerator.backward(loss if penalty is None else loss + penalty)
    return total


_NO_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


@contextmanager
def _memory_for(step: int, what: str, fix: str) -> Iterator[None]:
    """Turn running out of memory inside, the processor's or a GPU's, into OutOfMemory with what was done and a fix."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if isinstance(error, CellFailed) or not (known or any(text in str(error) for text in _NO_MEMORY)):
            raise
        raise OutOfMemory(step, f"out of memory with {what}: {fix}") from None


def _size(batch: Mapping[str, Tensor], parts: int = 1) -> str:
    """A batch's rows and padded length, in words."""
    rows, tokens = batch["input_ids"].shape
    return f"{rows} rows of {tokens} tokens" + (f" in {parts} parts" if parts > 1 else "")


def _smaller_step(settings: Train) -> str:
    """What to set so that a training step takes less memory."""
    finer = [n for n in range(2 * settings.accumulate, settings.batch_size + 1) if settings.batch_size % n == 0]
    parts = f"set train.accumulate={finer[0]} (the batch stays the same), or " if finer else ""
    return f"{parts}lower train.max_length={settings.max_length}"


def _gradients(trained: list[nn.Parameter], crew: Crew) -> list[Tensor]:
    """The gradients that a crew has to sum: zeros in a process that had none of a short batch's rows."""
    if crew.count == 1:
        return []
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in trained if parameter.grad is not None]


def trained_state(method: Method) -> dict[str, Tensor]:
    """Name -> copy on the CPU of all that trains, and of nothing else."""
    return {name: parameter.detach().cpu().clone() for name, parameter in method.trainable().items()}


@torch.no_grad()
def load_trained_state(method: Method, state: Mapping[str, Tensor]) -> None:
    """Put a `trained_state` back into the model."""
    for name, parameter in method.trainable().items():
        parameter.copy_(state[name])


@torch.no_grad()
def score(
    model: nn.Module,
    spec: TaskSpec,
    splits: Mapping[str, Encoded],
    accelerator: Accelerator,
    batch_size: int,
    step: int,
) -> tuple[Logits, dict[str, dict[str, float]]]:
    """Logits in row order and metrics, per split. The loss among them has no penalty.

    Raises OutOfMemory, with `step`, where a batch does not fit.
    """
    model.eval()
    logits: Logits = {}
    metrics: dict[str, dict[str, float]] = {}
    metric = glue_metric(spec)
    for name, rows in splits.items():
        out = torch.empty(len(rows), spec.num_labels)
        for numbers in by_length(rows.lengths(), batch_size):
            batch = rows.collate([rows[number] for number in numbers])
            fix = f"set eval_batch_size={len(numbers) // 2}" if len(numbers) > 1 else "give a larger device"
            with _memory_for(step, f"{_size(batch)} while scoring {name}", fix), accelerator.autocast():
                inputs = {key: value.to(accelerator.device) for key, value in batch.items() if key != "labels"}
                out[numbers] = model(**inputs).logits.float().cpu()
        references = torch.tensor(rows.labels)
        values: dict[str, Any] = metric.compute(predictions=predictions_of(out), references=rows.labels)
        metrics[name] = {
            **{key: float(value) for key, value in values.items()},
            "loss": loss_of(out, references).item(),
        }
        logits[name] = out
    return logits, metrics


def predictions_of(logits: Tensor) -> list[int] | list[float]:
    """Class ids, or scores for one output, from (rows, outputs) logits."""
    return (logits.squeeze(-1) if logits.shape[-1] == 1 else logits.argmax(-1)).tolist()
