"""The state of a run, saved to and restored from checkpoints: progress, weights, optimiser and random generators."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from lora2_bench.errors import CellFailed, UserError, first_line
from lora2_bench.methods.base import Method
from lora2_bench.training.checkpoints import Checkpoints
from lora2_bench.training.evaluation import Evaluation, Logits
from lora2_bench.training.randomness import random_state, set_random_state
from lora2_bench.training.step import TrainingStep
from lora2_bench.training.streams import TORCH, masks_name


@dataclass
class Progress:
    """The loop's own part of a checkpoint.

    Attributes:
        step: optimiser steps training_step.
        evaluations: so far, in order.
        best_step, best, best_state: step, logits and trained weights of the first highest score.
        best_facts: the method's facts at that step, as `Method.at_scoring`.
        last: logits of the last evaluation.
        loss_sum, since_evaluation: the training losses since that evaluation, summed, and their number.
        seconds: wall time of the steps, evaluations left out.
    """

    step: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    best_step: int = 0
    best: Logits = field(default_factory=dict)
    best_state: dict[str, Tensor] = field(default_factory=dict)
    best_facts: dict[str, Any] = field(default_factory=dict)
    last: Logits = field(default_factory=dict)
    loss_sum: float = 0.0
    since_evaluation: int = 0
    seconds: float = 0.0

    @property
    def best_score(self) -> float:
        """The highest score so far; minus infinity before the first."""
        return max((evaluation.score for evaluation in self.evaluations), default=-math.inf)

    @property
    def mean_loss(self) -> float:
        """Mean training loss since the last evaluation."""
        return self.loss_sum / self.since_evaluation

    @property
    def scored(self) -> str:
        """The scores so far, for the progress bar."""
        if not self.evaluations:
            return "not scored yet"
        return f"score {self.evaluations[-1].score:.4f}, best {self.best_score:.4f}"

    def add_step(self, loss: float, seconds: float) -> None:
        """Count one optimiser step."""
        self.step += 1
        self.loss_sum += loss
        self.since_evaluation += 1
        self.seconds += seconds

    def add_evaluation(self, evaluation: Evaluation, logits: Logits, method: Method) -> None:
        """Add an evaluation and its logits; of the best so far, keep the weights. Raises CellFailed for NaN."""
        if not math.isfinite(evaluation.score):
            cause = f"the score is {evaluation.score}: the model's outputs are no finite numbers"
            raise CellFailed(evaluation.step, cause)
        if evaluation.score > self.best_score:
            self.best_step, self.best, self.best_state = evaluation.step, logits, trained_state(method)
            self.best_facts = method.at_scoring()
        self.last = logits
        self.evaluations.append(evaluation)
        self.loss_sum, self.since_evaluation = 0.0, 0


def save_checkpoint(
    checkpoints: Checkpoints | None, progress: Progress, training_step: TrainingStep, *, at_once: bool
) -> None:
    """Write a checkpoint `at_once`, or where one is due by the main process's clock."""
    if checkpoints is None:
        return
    ranks = training_step.ranks
    if ranks.any(ranks.is_main and (at_once or checkpoints.due(progress.step))):
        random_states = ranks.all_gather(random_state(training_step.accelerator.device))
        if ranks.is_main:
            checkpoints.save(progress.step, snapshot(progress, training_step, random_states))


def resume(checkpoints: Checkpoints | None, training_step: TrainingStep) -> Progress:
    """Put the newest checkpoint back, where there is one, and return its progress.

    Raises UserError for a state that other code has written, with other parts.
    """
    found = training_step.ranks.on_main(checkpoints.load) if checkpoints is not None else None
    if checkpoints is None or found is None:
        return Progress()
    try:
        return restore(found, training_step)
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        where, reason = checkpoints.folder, f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{where} holds a state of other code ({reason}): remove that folder to start anew") from None


def snapshot(progress: Progress, training_step: TrainingStep, random_states: list[dict[str, Any]]) -> dict[str, Any]:
    """All that the next step depends on, as tensors and plain data; one random state per process."""
    return {
        "progress": {**vars(progress), "evaluations": [asdict(one) for one in progress.evaluations]},
        "trained": trained_state(training_step.method),
        "optimizer": training_step.optimizer.state_dict(),
        "scheduler": training_step.scheduler.state_dict(),
        "method": training_step.method.state_dict(),
        "engine": training_step.method.engine,
        "masks": masks_name(training_step.masks),
        "random": random_states,
    }


def restore(state: Mapping[str, Any], training_step: TrainingStep) -> Progress:
    """Put a `snapshot` back, the random state of this process included; returns the run's progress.

    Where another number of processes took it, random states stay as they are: a line says so, and dropout draws other
    numbers. Raises UserError for a state of the other engine, whose optimiser sees other tensors, and of other masks: a
    record says what its dropout drew from.
    """
    method, ranks = training_step.method, training_step.ranks
    if (engine := state["engine"]) != method.engine:
        raise UserError(
            f"engine={method.engine}: this cell is at step {state['progress']['step']} with engine={engine}: give "
            f"engine={engine} to go on"
        )
    if (before := state.get("masks", TORCH)) != (now := masks_name(training_step.masks)):
        raise UserError(
            f"masks={now}: this cell is at step {state['progress']['step']} with masks={before}: give "
            f"masks={before} to go on"
        )
    load_trained_state(method, state["trained"])
    training_step.optimizer.load_state_dict(state["optimizer"])
    training_step.scheduler.load_state_dict(state["scheduler"])
    method.load_state_dict(state["method"])
    values = dict(state["progress"])
    evaluations = [Evaluation(**one) for one in values.pop("evaluations")]
    progress = Progress(evaluations=evaluations, **values)
    if (others := len(state["random"])) == ranks.world_size:
        set_random_state(state["random"][ranks.rank], training_step.accelerator.device)
    elif ranks.is_main:
        line = (
            f"warning: {others} processes trained {progress.step} steps and {ranks.world_size} go on: dropout differs"
        )
        print(line, file=sys.stderr)
    return progress


def trained_state(method: Method) -> dict[str, Tensor]:
    """Name -> copy on the CPU of every trained parameter, and of what the method has drawn and keeps frozen."""
    return {name: tensor.detach().cpu().clone() for name, tensor in method.saved().items()}


@torch.no_grad()
def load_trained_state(method: Method, state: Mapping[str, Tensor]) -> None:
    """Put a `trained_state` back into the model."""
    for name, tensor in method.saved().items():
        tensor.copy_(state[name])
