"""Rank budgets: sensitivity-based importance, the cubic schedule, and the allocation of ranks over all matrices.

Zhang et al., AdaLoRA (arXiv 2303.10512), sections 3.2 and 3.3; the LoRA² scores are eq. 8 and 9 of arXiv 2408.06854.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora2_bench.experiment.checks import in_steps
from lora2_bench.methods.lowrank.schedule import BudgetOptions, Schedule
from lora2_bench.methods.lowrank.stack import Stack


class Sensitivity:
    """S(p) = Ī·Ū of a stack: running means of I = |p·∇p| and of its deviation |I - Ī| (AdaLoRA, eq. 8 to 10)."""

    def __init__(self, stack: Stack, beta1: float, beta2: float) -> None:
        self.stack = stack
        self.beta1, self.beta2 = beta1, beta2
        self.mean = torch.zeros_like(stack.value())
        self.deviation = torch.zeros_like(self.mean)

    def update(self) -> None:
        """Update the running means from the current values and gradients."""
        sensitivity = (self.stack.value() * self.stack.grad()).abs_()
        self.mean.mul_(self.beta1).add_(sensitivity, alpha=1 - self.beta1)
        self.deviation.mul_(self.beta2).add_(sensitivity.sub_(self.mean).abs_(), alpha=1 - self.beta2)

    def score(self) -> Tensor:
        """S, shaped as the stack, in float64: products of two small means underflow in float32."""
        return self.mean.double() * self.deviation.double()


@dataclass(frozen=True)
class RankedStacks:
    """The parameters of every rank of all adapted matrices.

    Attributes:
        gate: (matrices, r); a zero prunes its rank.
        per_rank: (stack, dimension of its parameters that counts ranks) whose mean score is added to each rank's.
        shared: stacks of all ranks together, whose mean score is added to every rank's (eq. 8's large factors).
    """

    gate: Stack
    per_rank: Sequence[tuple[Stack, int]]
    shared: Sequence[Stack] = ()

    def all(self) -> list[Stack]:
        """Every stack that is scored."""
        return [self.gate, *(stack for stack, _ in self.per_rank), *self.shared]


class BudgetAllocator:
    """Scores every rank of every matrix, and keeps the highest of all, as many as the schedule allows."""

    def __init__(self, stacks: RankedStacks, options: BudgetOptions, total_steps: int) -> None:
        self.stacks = stacks
        self.masks = torch.ones_like(stacks.gate.value(), dtype=torch.bool)  # (matrices, r)
        self.kept = [self.masks.shape[1]] * len(self.masks)  # ranks kept per matrix
        self.schedule: Schedule | None = None
        self.agreement: list[dict[str, int]] = []  # one entry per allocation, where the score has a shared part
        self._sensitivity: dict[Stack, Sensitivity] = {}
        if options.target_r is None:
            return
        self.schedule = Schedule(
            start=sum(self.kept),
            target=round(options.target_r * len(self.kept)),
            t_init=in_steps(options.t_init, total_steps),
            t_final=in_steps(options.t_final, total_steps),
            delta_t=max(1, in_steps(options.delta_t, total_steps)),
            total=total_steps,
        )
        self._sensitivity = {stack: Sensitivity(stack, options.beta1, options.beta2) for stack in stacks.all()}

    def scores(self, *, shared: bool = True) -> Tensor:
        """(matrices, r) importance in float64 (LoRA², eq. 8; without `shared`, eq. 9; AdaLoRA, eq. 7)."""
        total = self._sensitivity[self.stacks.gate].score()
        for stack, rank_dim in self.stacks.per_rank:
            total[stack.rows] += self._sensitivity[stack].score().mean(dim=2 - rank_dim)
        for stack in self.stacks.shared if shared else ():
            total[stack.rows] += self._sensitivity[stack].score().mean(dim=(1, 2))[:, None]
        return total

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Update the scores and, where the schedule says so, the masks; masked gates are set to zero."""
        if self.schedule is None:
            return
        if self.schedule.updates_scores(step):
            for sensitivity in self._sensitivity.values():
                sensitivity.update()
        if self.schedule.allocates(step):
            scores = self.scores()
            self._set_masks(keep_highest(scores, self.schedule.ranks(step)))
            if self.stacks.shared:
                self.agreement.append({"step": step, **agreement(scores, self.scores(shared=False), sum(self.kept))})
        if self.schedule.allocates(step) or self.schedule.is_final(step):
            self.stacks.gate.set_(self.stacks.gate.value() * self.masks)

    def finish(self) -> None:
        """Raise ValueError unless exactly the schedule's target is left."""
        if self.schedule is not None and sum(self.kept) != self.schedule.target:
            raise ValueError(f"{sum(self.kept)} ranks are left where the budget has {self.schedule.target}")

    def _set_masks(self, masks: Tensor) -> None:
        self.masks = masks
        self.kept = masks.sum(1).tolist()

    def state_dict(self) -> dict[str, Any]:
        """Masks and running means, in the order of the stacks."""
        return {
            "masks": self.masks.clone(),
            "mean": [sensitivity.mean.clone() for sensitivity in self._sensitivity.values()],
            "deviation": [sensitivity.deviation.clone() for sensitivity in self._sensitivity.values()],
            "agreement": list(self.agreement),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._set_masks(state["masks"].to(self.masks.device))
        self.agreement = list(state["agreement"])
        for sensitivity, mean, deviation in zip(
            self._sensitivity.values(), state["mean"], state["deviation"], strict=True
        ):
            sensitivity.mean.copy_(mean)
            sensitivity.deviation.copy_(deviation)


def keep_highest(scores: Tensor, keep: int) -> Tensor:
    """A mask, shaped as `scores`, of exactly the `keep` highest; among equal scores the first ones."""
    order = torch.argsort(scores.flatten(), descending=True, stable=True)
    mask = torch.zeros_like(order, dtype=torch.bool)
    mask[order[:keep]] = True
    return mask.view_as(scores)


def agreement(scores: Tensor, other: Tensor, keep: int) -> dict[str, int]:
    """How many ranks two scorings (matrices, r) both keep.

    Each keeps `kept` ranks. Both keep `across` of them when each allocates over all matrices together, and `within` of
    them when the other scoring keeps as many in each matrix as `scores` does.
    """
    mask = keep_highest(scores, keep)
    rival = keep_highest(other, keep)
    inside = torch.stack([keep_highest(row, int(kept.sum())) for row, kept in zip(other, mask, strict=True)])
    return {"kept": keep, "across": int((mask & rival).sum()), "within": int((mask & inside).sum())}
