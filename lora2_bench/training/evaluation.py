"""Scoring: logits in row order, metrics per split, and the losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lora2_bench.backbones.first_token import head_alone
from lora2_bench.tasks.batches import by_length
from lora2_bench.tasks.encoding import EncodedSplit
from lora2_bench.tasks.metrics import main_score, metrics_of
from lora2_bench.tasks.spec import TaskSpec
from lora2_bench.training.memory import batch_size_in_words, explain_out_of_memory

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


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over classes, or mean squared error for one output. logits: (rows, outputs)."""
    if logits.shape[-1] == 1:
        return nn.functional.mse_loss(logits.squeeze(-1).float(), labels.float())
    return nn.functional.cross_entropy(logits.float(), labels)


def evaluate(
    model: nn.Module,
    spec: TaskSpec,
    splits: Mapping[str, EncodedSplit],
    accelerator: Accelerator,
    batch_size: int,
    step: int,
    epoch: float,
    train_loss: float,
) -> tuple[Evaluation, Logits]:
    """Score the splits after `step`: the evaluation, and the logits per split. Raises OutOfMemory as `score` does."""
    logits, metrics = score(model, spec, splits, accelerator, batch_size, step)
    return Evaluation(step, round(epoch, 4), main_score(spec, metrics), metrics, train_loss), logits


@torch.no_grad()
def logits_of(
    model: nn.Module,
    rows: EncodedSplit,
    outputs: int,
    accelerator: Accelerator,
    batch_size: int,
    step: int,
    doing: str,
) -> Tensor:
    """(rows, outputs) float32 logits on the CPU, in row order. Labels are not read.

    Raises OutOfMemory, with `step` and what was being done, where a batch does not fit.
    """
    model.eval()
    out = torch.empty(len(rows), outputs)
    for numbers in by_length(rows.lengths(), batch_size):
        batch = rows.collate([rows[number] for number in numbers])
        fix = f"set eval_batch_size={len(numbers) // 2}" if len(numbers) > 1 else "give a larger device"
        with (
            explain_out_of_memory(step, f"{batch_size_in_words(batch)} while {doing}", fix),
            accelerator.autocast(),
            head_alone(model),
        ):
            inputs = {key: value.to(accelerator.device) for key, value in batch.items() if key != "labels"}
            out[numbers] = model(**inputs).logits.float().cpu()
    return out


def score(
    model: nn.Module,
    spec: TaskSpec,
    splits: Mapping[str, EncodedSplit],
    accelerator: Accelerator,
    batch_size: int,
    step: int,
) -> tuple[Logits, dict[str, dict[str, float]]]:
    """Logits in row order and metrics, per split. The loss among them has no penalty.

    Raises OutOfMemory, with `step`, where a batch does not fit.
    """
    logits: Logits = {}
    metrics: dict[str, dict[str, float]] = {}
    for name, rows in splits.items():
        out = logits_of(model, rows, spec.num_labels, accelerator, batch_size, step, f"scoring {name}")
        references = torch.tensor(rows.labels)
        metrics[name] = {
            **metrics_of(spec, predictions_of(out), rows.labels),
            "loss": loss_of(out, references).item(),
        }
        logits[name] = out
    return logits, metrics


def predictions_of(logits: Tensor) -> list[int] | list[float]:
    """Class ids, or scores for one output, from (rows, outputs) logits."""
    return (logits.squeeze(-1) if logits.shape[-1] == 1 else logits.argmax(-1)).tolist()
