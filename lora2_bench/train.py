"""The only training loop. It knows no method by name and writes no file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_scheduler

from lora2_bench.cell import Cell, in_steps
from lora2_bench.errors import CellFailed
from lora2_bench.methods.base import Method
from lora2_bench.tasks.batches import BucketSampler, Encoded, by_length
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
    """

    evaluations: list[Evaluation]
    best_step: int
    best: Logits
    last: Logits
    best_state: dict[str, Tensor]
    steps: int
    epochs: float
    seconds_per_step: float


def make_accelerator(precision: str, device: str) -> Accelerator:
    """An Accelerator for one cell; state of an earlier cell in this process is dropped."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision="bf16" if precision == "bf16" else "no", cpu=device == "cpu")


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
) -> Outcome:
    """Train the injected `method` on `train_rows`, scoring `eval_rows` as it goes.

    Raises CellFailed with the step and its cause when the loss is no finite number.
    """
    settings, spec = cell.train, cell.spec
    model: nn.Module = method.backbone.model
    total = settings.total_steps(len(train_rows))
    every = settings.eval_steps or settings.steps_per_epoch(len(train_rows))

    sampler = BucketSampler(train_rows.lengths(), settings.batch_size, cell.seed)
    loader = DataLoader(train_rows, batch_sampler=sampler, collate_fn=train_rows.collate)
    groups = method.param_groups(settings.weight_decay)
    betas = (settings.adam_beta1, settings.adam_beta2)
    optimizer = AdamW(groups, lr=settings.lr, betas=betas, eps=settings.adam_eps)
    scheduler = get_scheduler(settings.schedule, optimizer, in_steps(settings.warmup, total), total)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    trained = list(method.trainable().values())

    evaluations: list[Evaluation] = []
    best_score, best_step = -math.inf, 0
    best: Logits = {}
    last: Logits = {}
    best_state: dict[str, Tensor] = {}
    loss_sum = torch.zeros((), device=accelerator.device)
    since_evaluation, training_seconds, scored = 0, 0.0, "not scored yet"
    torch.manual_seed(cell.seed)  # dropout draws the same numbers whatever was drawn while the model was built

    bar = tqdm(total=total, desc=f"{cell.task} {cell.method_label}", unit="step", mininterval=0.5)
    step = epoch = 0
    mark = time.perf_counter()
    while step < total:
        sampler.set_epoch(epoch)
        for batch in loader:
            step += 1
            model.train()
            loss = _backward(model, method, batch, settings.accumulate, accelerator)
            if not math.isfinite(loss_now := loss.item()):
                bar.close()
                raise CellFailed(
                    step, f"the training loss is {loss_now}: lower train.lr={settings.lr}, or warm up longer"
                )
            if settings.max_grad_norm > 0:
                accelerator.clip_grad_norm_(trained, settings.max_grad_norm)
            method.after_backward(step)
            optimizer.step()
            scheduler.step()
            method.after_step(step)
            optimizer.zero_grad()
            loss_sum += loss
            since_evaluation += 1
            training_seconds += time.perf_counter() - mark
            bar.set_postfix_str(f"loss {loss_now:.3f}, {scored}", refresh=False)
            bar.update()

            if step % every == 0 or step == total:
                last, metrics = score(model, spec, eval_rows, accelerator, eval_batch_size)
                passes = step / settings.steps_per_epoch(len(train_rows))
                mean_loss = float(loss_sum) / since_evaluation
                evaluation = Evaluation(step, round(passes, 4), main_score(spec, metrics), metrics, mean_loss)
                if not math.isfinite(evaluation.score):
                    bar.close()
                    raise CellFailed(
                        step, f"the score is {evaluation.score}: the model's outputs are no finite numbers"
                    )
                evaluations.append(evaluation)
                on_evaluation(evaluation)
                if evaluation.score > best_score:
                    best_score, best_step, best = evaluation.score, step, last
                    best_state = trained_state(method)
                loss_sum.zero_()
                since_evaluation = 0
                scored = f"score {evaluation.score:.4f}, best {best_score:.4f}"
            mark = time.perf_counter()
            if step == total:
                break
        epoch += 1
    bar.close()
    try:
        method.finish()
    except ValueError as error:
        raise CellFailed(step, str(error)) from None
    epochs = step / settings.steps_per_epoch(len(train_rows))
    return Outcome(evaluations, best_step, best, last, best_state, step, round(epochs, 4), training_seconds / step)


def _backward(
    model: nn.Module, method: Method, batch: dict[str, Tensor], parts: int, accelerator: Accelerator
) -> Tensor:
    """Gradients of one step's loss and penalty, in `parts` pieces that add up to the whole batch; returns the loss."""
    rows = len(batch["labels"])
    size = math.ceil(rows / parts)
    total = torch.zeros((), device=accelerator.device)
    for start in range(0, rows, size):
        piece = {name: tensor[start : start + size] for name, tensor in batch.items()}
        labels = piece.pop("labels")
        with accelerator.autocast():
            logits = model(**piece).logits
        loss = loss_of(logits, labels) * (len(labels) / rows)
        total += loss.detach()
        penalty = method.penalty() if start == 0 else None
        accelerator.backward(loss if penalty is None else loss + penalty)
    return total


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
    model: nn.Module, spec: TaskSpec, splits: Mapping[str, Encoded], accelerator: Accelerator, batch_size: int
) -> tuple[Logits, dict[str, dict[str, float]]]:
    """Logits in row order and metrics, per split. The loss among them has no penalty."""
    model.eval()
    logits: Logits = {}
    metrics: dict[str, dict[str, float]] = {}
    metric = glue_metric(spec)
    for name, rows in splits.items():
        out = torch.empty(len(rows), spec.num_labels)
        for numbers in by_length(rows.lengths(), batch_size):
            batch = rows.collate([rows[number] for number in numbers])
            inputs = {key: value.to(accelerator.device) for key, value in batch.items() if key != "labels"}
            with accelerator.autocast():
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
