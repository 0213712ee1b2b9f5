"""Rank budgets: sensitivity-based importance, the cubic schedule, and one global choice of ranks over all matrices.

Zhang et al., AdaLoRA (arXiv 2303.10512), sections 3.2 and 3.3; the LoRA² scores are eq. 8 and 9 of arXiv 2408.06854.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lora2_bench.cell import in_steps, require, require_number, require_steps
from lora2_bench.errors import UserError


@dataclass(frozen=True)
class BudgetOptions:
    """A budget that falls to an average rank of `target_r` per matrix.

    Attributes:
        target_r: average rank kept per matrix at the end; None = nothing is pruned.
        t_init: steps before pruning starts; under 1 a share of all steps.
        t_final: steps at the end with fixed masks; under 1 a share of all steps.
        delta_t: steps between two choices of ranks; under 1 a share of all steps, at least one step.
        beta1, beta2: decay of the running means of sensitivity and of its deviation.
    """

    target_r: float | None
    t_init: float
    t_final: float
    delta_t: float
    beta1: float
    beta2: float

    def __post_init__(self) -> None:
        if self.target_r is not None:
            require_number("method.budget.target_r", self.target_r, 0.0, 1e6, "a number of at least 0, or null")
        require_steps("method.budget.t_init", self.t_init)
        require_steps("method.budget.t_final", self.t_final)
        require_steps("method.budget.delta_t", self.delta_t)
        require(self.delta_t > 0, "method.budget.delta_t", self.delta_t, "above 0")
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            require_number(f"method.budget.{name}", value, 0.0, 1 - 1e-9, "a number from 0 to under 1")

    def check(self, total_steps: int, rank: int) -> None:
        """Raise UserError where the schedule does not fit `total_steps` or the target is above `rank`."""
        if self.target_r is None:
            return
        if self.target_r > rank:
            raise UserError(
                f"method.budget.target_r={self.target_r} is above method.r={rank}: give at most {rank}, or null for all"
            )
        t_init, t_final = in_steps(self.t_init, total_steps), in_steps(self.t_final, total_steps)
        if t_init + t_final >= total_steps:
            raise UserError(
                f"method.budget.t_init={t_init} + t_final={t_final} steps must be under the run's {total_steps} steps: "
                "train longer, scale the recipe's steps to the run (method.budget.scale=true), or give shares such as "
                "method.budget.t_init=0.1 method.budget.t_final=0.3"
            )


@dataclass(frozen=True)
class Schedule:
    """The cubic schedule (AdaLoRA, eq. 12): `start` ranks until t_init, falling to `target` at total - t_final."""

    start: int
    target: int
    t_init: int
    t_final: int
    delta_t: int
    total: int

    def ranks(self, step: int) -> int:
        """Ranks to keep over all matrices after `step`."""
        end = self.total - self.t_final
        if step <= self.t_init:
            return self.start
        if step >= end:
            return self.target
        left = 1 - (step - self.t_init) / (end - self.t_init)
        return int(self.target + (self.start - self.target) * left**3)

    def chooses(self, step: int) -> bool:
        """True where ranks are chosen anew after `step`: every delta_t while the budget falls, and once at its end."""
        end = self.total - self.t_final
        return step == end or (self.t_init < step < end and step % self.delta_t == 0)

    def is_final(self, step: int) -> bool:
        """True where the choice of ranks is fixed."""
        return step > self.total - self.t_final

    def scores(self, step: int) -> bool:
        """True where the running means take in `step`: until the last choice, which goes by the step before it."""
        return step < self.total - self.t_final


class Sensitivity:
    """S(p) = Ī·Ū of one parameter: running means of I = |p·∇p| and of its deviation |I - Ī| (AdaLoRA, eq. 8 to 10)."""

    def __init__(self, parameter: nn.Parameter, beta1: float, beta2: float) -> None:
        self.parameter = parameter
        self.beta1, self.beta2 = beta1, beta2
        self.mean = torch.zeros_like(parameter, requires_grad=False)
        self.deviation = torch.zeros_like(parameter, requires_grad=False)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameter's present value and gradient."""
        assert self.parameter.grad is not None
        sensitivity = (self.parameter * self.parameter.grad).abs()
        self.mean.mul_(self.beta1).add_(sensitivity, alpha=1 - self.beta1)
        self.deviation.mul_(self.beta2).add_((sensitivity - self.mean).abs(), alpha=1 - self.beta2)

    def score(self) -> Tensor:
        """S, shaped as the parameter, in float64: products of two small means underflow in float32."""
        return self.mean.double() * self.deviation.double()


@dataclass(frozen=True)
class RankedMatrix:
    """One adapted matrix, seen rank by rank.

    Attributes:
        gate: (r,) parameter whose zeros switch ranks off.
        per_rank: (parameter, dimension that counts ranks) whose mean score is added to each rank's.
        shared: parameters of all ranks together, whose mean score is added to every rank's (eq. 8's large factors).
    """

    gate: nn.Parameter
    per_rank: Sequence[tuple[nn.Parameter, int]]
    shared: Sequence[nn.Parameter] = field(default_factory=tuple)


class BudgetAllocator:
    """Scores every rank of every matrix, and keeps as many as the schedule says, chosen over all of them together."""

    def __init__(self, matrices: Sequence[RankedMatrix], options: BudgetOptions, total_steps: int) -> None:
        self.matrices = list(matrices)
        self.masks = [torch.ones_like(matrix.gate, dtype=torch.bool, requires_grad=False) for matrix in matrices]
        self.kept = [matrix.gate.numel() for matrix in matrices]  # ranks kept per matrix
        self.schedule: Schedule | None = None
        self.agreement: list[dict[str, int]] = []  # per choice, where the score has a shared part
        self._sensitivity: dict[int, Sensitivity] = {}
        if options.target_r is None:
            return
        self.schedule = Schedule(
            start=sum(self.kept),
            target=round(options.target_r * len(self.matrices)),
            t_init=in_steps(options.t_init, total_steps),
            t_final=in_steps(options.t_final, total_steps),
            delta_t=max(1, in_steps(options.delta_t, total_steps)),
            total=total_steps,
        )
        for parameter in self._scored():
            self._sensitivity[id(parameter)] = Sensitivity(parameter, options.beta1, options.beta2)

    def _scored(self) -> list[nn.Parameter]:
        return [p for m in self.matrices for p in (m.gate, *(p for p, _ in m.per_rank), *m.shared)]

    def scores(self, *, shared: bool = True) -> list[Tensor]:
        """One (r,) float64 tensor of importance per matrix (LoRA², eq. 8; without `shared`, eq. 9; AdaLoRA, eq. 7)."""
        return [self._score(matrix, shared) for matrix in self.matrices]

    def _score(self, matrix: RankedMatrix, shared: bool) -> Tensor:
        total = self._sensitivity[id(matrix.gate)].score()
        for parameter, rank_dim in matrix.per_rank:
            total = total + self._sensitivity[id(parameter)].score().mean(dim=1 - rank_dim)
        for parameter in matrix.shared if shared else ():
            total = total + self._sensitivity[id(parameter)].score().mean()
        return total

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Update the scores and, where the schedule says so, the masks; masked gates are set to zero."""
        if self.schedule is None:
            return
        if self.schedule.scores(step):
            for sensitivity in self._sensitivity.values():
                sensitivity.update()
        if self.schedule.chooses(step):
            scores = self.scores()
            self._set_masks(keep_highest(scores, self.schedule.ranks(step)))
            if any(matrix.shared for matrix in self.matrices):
                self.agreement.append({"step": step, **agreement(scores, self.scores(shared=False), sum(self.kept))})
        if self.schedule.chooses(step) or self.schedule.is_final(step):
            for matrix, mask in zip(self.matrices, self.masks, strict=True):
                matrix.gate.mul_(mask)

    def finish(self) -> None:
        """Raise ValueError unless exactly the schedule's target is left."""
        if self.schedule is not None and sum(self.kept) != self.schedule.target:
            raise ValueError(f"{sum(self.kept)} ranks are left where the budget has {self.schedule.target}")

    def _set_masks(self, masks: Sequence[Tensor]) -> None:
        self.masks = list(masks)
        self.kept = [int(mask.sum()) for mask in self.masks]

    def state_dict(self) -> dict[str, Any]:
        """Masks and running means, in the order of the matrices."""
        means = [self._sensitivity[id(p)] for p in self._scored() if id(p) in self._sensitivity]
        return {
            "masks": [mask.clone() for mask in self.masks],
            "mean": [s.mean.clone() for s in means],
            "deviation": [s.deviation.clone() for s in means],
            "agreement": list(self.agreement),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._set_masks([mask.clone() for mask in state["masks"]])
        self.agreement = list(state["agreement"])
        means = [self._sensitivity[id(p)] for p in self._scored() if id(p) in self._sensitivity]
        for sensitivity, mean, deviation in zip(means, state["mean"], state["deviation"], strict=True):
            sensitivity.mean.copy_(mean)
            sensitivity.deviation.copy_(deviation)


def keep_highest(scores: Sequence[Tensor], keep: int) -> list[Tensor]:
    """Masks that keep exactly the `keep` highest scores over all matrices; of equal scores the first stay."""
    flat = torch.cat([score.flatten() for score in scores])
    order = torch.argsort(flat, descending=True, stable=True)
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[order[:keep]] = True
    return list(torch.split(mask, [score.numel() for score in scores]))


def agreement(scores: Sequence[Tensor], other: Sequence[Tensor], keep: int) -> dict[str, int]:
    """How far two scorings of the same ranks choose alike.

    `kept` ranks are chosen by each; `across` of them by both, when each chooses over all matrices together; `within` by
    both, when the other scoring has to keep as many in each matrix as `scores` keeps there.
    """
    masks = keep_highest(scores, keep)
    rivals = keep_highest(other, keep)
    inside = [keep_highest([score], int(mask.sum()))[0] for score, mask in zip(other, masks, strict=True)]

    def common(theirs: Sequence[Tensor]) -> int:
        return sum(int((one & two).sum()) for one, two in zip(masks, theirs, strict=True))

    return {"kept": keep, "across": common(rivals), "within": common(inside)}
