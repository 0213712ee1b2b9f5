"""All that the next step depends on, as plain data and back."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from lora2_bench.errors import CellFailed, UserError
from lora2_bench.methods.base import Method
from lora2_bench.training.checkpoints import Checkpoints
from lora2_bench.training.evaluation import Evaluation, Logits
from lora2_bench.training.ranks import Crew


@dataclass
class Progress:
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
        """The highest score so far; minus infinity before the first."""
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


def keep_checkpoint(
    checkpoints: Checkpoints,
    now: bool,
    step: int,
    state: Callable[[list[dict[str, Any]]], dict[str, Any]],
    accelerator: Accelerator,
    crew: Crew,
) -> None:
    """Write a checkpoint where it is time, by the main process's clock."""
    if crew.any(now and crew.is_main):
        random_states = crew.gather(random_state(accelerator))
        if crew.is_main:
            checkpoints.save(step, state(random_states))


def snapshot(
    progress: Progress, method: Method, optimizer: Any, scheduler: Any, random_states: list[dict[str, Any]]
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


def restore(
    state: Mapping[str, Any], method: Method, optimizer: Any, scheduler: Any, crew: Crew
) -> tuple[Progress, dict[str, Any] | None]:
    """Put a `snapshot` back; this process's random state is returned, to be set where the state was taken.

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
    progress = Progress(evaluations=evaluations, **values)
    if (before := len(state["random"])) != crew.count:
        if crew.is_main:
            line = f"warning: {before} processes trained {progress.step} steps and {crew.count} go on: dropout differs"
            print(line, file=sys.stderr)
        return progress, None
    return progress, state["random"][crew.rank]


def random_state(accelerator: Accelerator) -> dict[str, Any]:
    """What this process draws its dropout from."""
    on_gpu = accelerator.device.type == "cuda"
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(accelerator.device) if on_gpu else None}


def set_random_state(state: Mapping[str, Any], accelerator: Accelerator) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], accelerator.device)


def trained_state(method: Method) -> dict[str, Tensor]:
    """Name -> copy on the CPU of all that trains, and of nothing else."""
    return {name: parameter.detach().cpu().clone() for name, parameter in method.trainable().items()}


@torch.no_grad()
def load_trained_state(method: Method, state: Mapping[str, Tensor]) -> None:
    """Put a `trained_state` back into the model."""
    for name, parameter in method.trainable().items():
        parameter.copy_(state[name])
