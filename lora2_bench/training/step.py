"""One optimiser step's gradients, in parts and over processes."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lora2_bench.methods.base import Method
from lora2_bench.training.evaluation import loss_of
from lora2_bench.training.ranks import Crew


def backward(
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


def gradients_to_sum(trained: list[nn.Parameter], crew: Crew) -> list[Tensor]:
    """The gradients that a crew has to sum: zeros in a process that had none of a short batch's rows."""
    if crew.count == 1:
        return []
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in trained if parameter.grad is not None]
