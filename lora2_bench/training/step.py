"""One optimiser step: gradients in parts and over processes, clipping, the method's hooks, optimiser and schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from lora2_bench.backbones.masks import MaskStream
from lora2_bench.errors import CellFailed
from lora2_bench.experiment.cell import Train
from lora2_bench.experiment.checks import in_steps
from lora2_bench.methods.base import Method
from lora2_bench.training.evaluation import loss_of
from lora2_bench.training.memory import batch_size_in_words, explain_out_of_memory, how_to_save_memory
from lora2_bench.training.pack import Pack
from lora2_bench.training.ranks import SINGLE_PROCESS, Ranks
from lora2_bench.training.schedule import make_schedule


class TrainingStep:
    """Takes the optimiser steps of one run; the loop and the benchmark share it.

    Args:
        method: injected, with its model on the accelerator's device.
        settings: rates, schedule, clipping, parts and AdamW's constants.
        total_steps: steps of the run, over which the learning rate is scheduled.
        masks: what the backbone's dropout draws from; None where it draws from torch's generator.
        pack: the cells that it trains beside; None for a cell on its own.

    Attributes:
        model: what is trained.
        trained: the parameters that the optimiser sees.
        optimizer, scheduler: AdamW and the schedule of its learning rate.
    """

    def __init__(
        self,
        method: Method,
        settings: Train,
        total_steps: int,
        accelerator: Accelerator,
        ranks: Ranks = SINGLE_PROCESS,
        masks: MaskStream | None = None,
        pack: Pack | None = None,
    ) -> None:
        self.method, self.settings, self.masks, self.pack = method, settings, masks, pack
        self.accelerator, self.ranks = accelerator, ranks
        # Evaluation mode leaves the model without DistributedDataParallel: `ranks` sums the gradients.
        # On a CPU nothing has to move, and to `cpu:0`, the device of several processes, a move makes new buffers, which
        # `Backbone.owns` does not know.
        placed = False if accelerator.device.type == "cpu" else None
        self.model: nn.Module = accelerator.prepare_model(method.backbone.model, placed, evaluation_mode=True)
        groups = method.optimizer_groups(settings.weight_decay, settings.head_lr)
        self.trained: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
        betas = (settings.adam_beta1, settings.adam_beta2)
        optimizer = AdamW(groups, lr=settings.lr, betas=betas, eps=settings.adam_eps)
        warmup = in_steps(settings.warmup, total_steps)
        self.scheduler = make_schedule(settings.schedule, optimizer, warmup, total_steps)
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self._less_memory = how_to_save_memory(settings)

    def __call__(self, batch: dict[str, Tensor], step: int) -> float:
        """Take optimiser step number `step`, counted from 1, on a padded batch; returns its loss without the penalty.

        Raises CellFailed where the loss is not finite, and OutOfMemory with what to set.
        """
        size = batch_size_in_words(batch, self.settings.accumulate)
        with self.ranks.raise_on_all(), explain_out_of_memory(step, size, self._less_memory):
            if not self.model.training:  # after an evaluation; it goes through all modules
                self.model.train()
            self.method.before_step(step)
            parts, begin = self.settings.accumulate, partial(self._begin, step)
            go_back = self.accelerator.backward if self.pack is None else self.pack.backward
            summed = backward(self.model, self.method, batch, parts, self.accelerator, self.ranks, begin, go_back)
        self.ranks.all_reduce([summed, *gradients_to_sum(self.trained, self.ranks)])
        if not math.isfinite(loss := summed.item()):
            cause = f"the training loss is {loss}: lower train.lr={self.settings.lr}, or warm up longer"
            raise CellFailed(step, cause)
        with self.ranks.raise_on_all(), explain_out_of_memory(step, size, self._less_memory):
            if self.settings.max_grad_norm > 0:
                self.accelerator.clip_grad_norm_(self.trained, self.settings.max_grad_norm)
            self.method.after_backward(step)
            self.optimizer.step()
            self.scheduler.step()
            self.method.after_step(step)
            self.method.zero_grad(self.optimizer)
        return loss

    def _begin(self, step: int, part: int) -> None:
        """Before the forward pass of a part of the batch."""
        if self.pack is not None:
            self.pack.begin()
        if self.masks is not None:
            self.masks.begin(step, part)


def backward(
    model: nn.Module,
    method: Method,
    batch: dict[str, Tensor],
    parts: int,
    accelerator: Accelerator,
    ranks: Ranks,
    begin: Callable[[int], None],
    go_back: Callable[[Tensor], None],
) -> Tensor:
    """Gradients of one step's loss and penalty, in pieces that add up to the whole batch; returns the loss.

    The batch is cut into `parts` pieces for each process, which goes through its own: over all processes, gradients and
    losses sum up to the step's. The first piece carries the penalty. `begin` gets the number of each piece, counted
    over all processes, before its forward pass, and `go_back` its loss after it.
    """
    rows = len(batch["labels"])
    size = math.ceil(rows / (parts * ranks.world_size))
    total = torch.zeros((), device=accelerator.device)
    for start in range(0, rows, size)[ranks.rank * parts : (ranks.rank + 1) * parts]:
        begin(start // size)
        piece = {name: tensor[start : start + size].to(accelerator.device) for name, tensor in batch.items()}
        labels = piece.pop("labels")
        with accelerator.autocast():
            logits = model(**piece).logits
        loss = loss_of(logits, labels) * (len(labels) / rows)
        total += loss.detach()
        penalty = method.penalty() if start == 0 else None
        go_back(loss if penalty is None else loss + penalty)
    return total


def gradients_to_sum(trained: list[nn.Parameter], ranks: Ranks) -> list[Tensor]:
    """The gradients to sum over processes: zeros in a process that had no rows of a short batch."""
    if ranks.world_size == 1:
        return []
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in trained if parameter.grad is not None]
